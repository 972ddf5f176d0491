"""Clients and coordinators: a live run goes on with another plan."""

from __future__ import annotations

import msgspec


class PatchRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="patch"):
    """Replace the nodes of a live run that have not begun. Result: `PatchView`.

    The error `unknown-plan` means: send `StorePlan` first. `conflict`: what has begun is not as it
    was; the message names each such node.
    """

    run: str
    request_id: str
    not_after_ms: int
    actor: str = ""
    plan: str
    """Digest of the new one."""
    dry_run: bool = False
    """Only say what would change."""


class PatchView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a patch has changed, or would change."""

    run: str
    plan: str
    """Digest of the plan from here on."""
    previous: str
    event: int = 0
    """Number of the event in the run's history; 0: nothing was changed (`dry_run`)."""
    added: list[str] = []
    """Paths of nodes, at most `PATHS_MAX`; here and below."""
    removed: list[str] = []
    changed: list[str] = []
    begun: int = 0
    """Nodes that have begun: they stay as they are."""


PATHS_MAX = 200
