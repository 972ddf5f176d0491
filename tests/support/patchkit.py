"""Patches of live runs, for tests: accepted, refused, and what a run is without its events."""

from __future__ import annotations

from typing import Any

from headrace.coordinator.core import Refusal, state_hash
from headrace.coordinator.core.snapshot import encode_run
from headrace.coordinator.core.state import Run
from headrace.messages import PatchView
from headrace.plan import Plan
from support.corekit import Kit
from support.plans import Spec, plan


def patched(kit: Kit, new: Plan | str, run: str = "r", **options: Any) -> PatchView:
    """Patch a run; it must be accepted."""
    reply = kit.patch(new, run, **options)
    assert isinstance(reply, PatchView), reply
    return reply


def refused(kit: Kit, new: Plan, code: str = "conflict", run: str = "r", **options: Any) -> str:
    """Patch a run; it must be refused, with this code, and nothing changed. Return why."""
    digest = kit.store(new)
    before = state_hash(kit.folder.state)
    reply = kit.patch(digest, run, **options)
    assert isinstance(reply, Refusal), reply
    assert reply.code == code, reply
    assert state_hash(kit.folder.state) == before
    return reply.message


def begun(*specs: Spec, done: list[str] | tuple[str, ...] = (), **options: Any) -> Kit:
    """A kit with a run of these nodes, of which some have completed."""
    kit = Kit()
    kit.start(plan(*specs, **options))
    for path in done:
        kit.complete(path, {"from": path})
    return kit


def plain_image(run: Run) -> bytes:
    """The run as bytes, without what says that there were events."""
    kept = run.events, run.history, run.patches
    run.events, run.history, run.patches = 0, [], None
    try:
        return encode_run(run)
    finally:
        run.events, run.history, run.patches = kept
