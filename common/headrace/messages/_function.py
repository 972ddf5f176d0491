"""Clients and coordinators: talking to the workflow function of a live run."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from headrace.messages._code import NOTHING


class UpdateRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="update"):
    """Ask a workflow function to change something; in the log, and answered once.

    Result: `UpdateView`, when the function has answered, or after `wait_ms`. Sent again with the
    same id it asks for the answer.
    """

    run: str
    request_id: str
    not_after_ms: int
    actor: str = ""
    name: str
    argument: Any = None
    wait_ms: int = 0


class UpdateView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of an update."""

    state: str
    """`PENDING`, `COMPLETED`, or `FAILED`: the function has refused it."""
    value: msgspec.Raw = NOTHING
    """What the function has returned."""
    error: str = ""
    """``type: message`` of a refusal."""


class QueryRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="query"):
    """Ask a workflow function something that changes nothing; in no log.

    Result: `QueryAnswer`. Errors: `unavailable` after `wait_ms` (no worker has its code, say),
    `busy` with too many of them, `conflict` when the run is blocked or ends meanwhile.
    """

    run: str
    id: str
    """Made by the client."""
    name: str
    argument: Any = None
    wait_ms: int = 5_000


class UnblockRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="unblock"):
    """Say how a run goes on whose journal and code contradict each other."""

    run: str
    request_id: str
    not_after_ms: int
    actor: str = ""
    action: str
    """`skip`: take what is recorded of `key`, though its inputs differ; `patch`: the code that is
    deployed now fits; `fail`: the run fails."""
    key: str = ""
    """Of `skip`; empty: the entry that is in the way."""


FunctionRequest: TypeAlias = UpdateRun | QueryRun | UnblockRun
