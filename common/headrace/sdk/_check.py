"""Replays a recorded history with the code of today: does it still agree?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from headrace.errors import InvalidRequest, NotFound
from headrace.messages import Entry, EntryState, StepError, Turn, TurnOutcome
from headrace.sdk import _codec
from headrace.sdk._app import App
from headrace.sdk._turn import new_execution

_ENDED = {True: EntryState.FAILED, False: EntryState.COMPLETED}


class Checked(msgspec.Struct, frozen=True):
    """What a replay has shown."""

    workflow: str
    entries: int
    conflict: str = ""
    """The readable diff; empty: code and journal agree."""


def check_history(app: App, events: Sequence[Mapping[str, Any]]) -> Checked:
    """Replay a run's *events* (``type``, ``time_ms``, ``data``), as `flowctl history` prints them.

    No step runs. Raises `NotFound` for a workflow that *app* does not have, `InvalidRequest` for
    what is no history of a workflow function.
    """
    if not events or events[0].get("type") != "RunCreated":
        raise InvalidRequest("a history begins with RunCreated")
    created = events[0]["data"]
    name = created.get("workflow", "")
    workflow = app.workflows.get(name)
    if name in app.steps and "arguments" in (created.get("input") or {}):
        # A step with `runs_on` is a run of its own, and named as the step.
        workflow = app.remote
    if workflow is None:
        known = ", ".join(sorted(app.workflows)) or "none"
        raise NotFound(f"{app.name} has no workflow {name!r} (there are: {known})")
    journal = _Journal(created.get("input") or {})
    for event in events:
        journal.take(event["type"], event.get("data") or {})
    entries = sorted(journal.entries.values(), key=lambda entry: entry.number)
    turn = Turn(
        input=msgspec.Raw(_codec.encode(journal.input)),
        entries=entries,
        number=journal.number,
        generation=journal.generation,
        created_ms=int(events[0].get("time_ms", 0)),
        now_ms=int(events[-1].get("time_ms", 0)),
    )
    execution = new_execution(workflow, "replay/check", turn)
    try:
        end = execution.outcome
        conflict = ""
        if end is not None and end.outcome == TurnOutcome.BLOCKED and end.error is not None:
            conflict = end.error.message
        return Checked(workflow.uses, len(entries), conflict)
    finally:
        execution.close()


class _Journal:
    """What the owner had, as far as a replay needs it."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        self.input = inputs
        self.entries: dict[str, Entry] = {}
        self.number = self.generation = 0

    def take(self, kind: str, data: Mapping[str, Any]) -> None:
        """Fold one event."""
        if kind == "TurnEnded" and data.get("outcome") == TurnOutcome.AGAIN:
            self.input = data.get("value") or {}
            self.entries, self.number = {}, 0
            self.generation += 1
        elif kind in ("EntryBegun", "ChildRunBegun"):
            begun = "child" if kind == "ChildRunBegun" else data.get("kind", "")
            self._put(self._entry(data, begun))
        elif kind == "EntryTried":
            entry = self._entry(data, "step")
            entry.attempts += 1
            entry.due_ms = data.get("retry_ms", 0)
            self._put(entry)
        elif kind == "EntryEnded":
            entry = self._entry(data, data.get("kind", ""))
            error = data.get("error")
            entry.state = _ENDED[error is not None]
            entry.error = msgspec.convert(error, StepError) if error is not None else None
            entry.value = msgspec.Raw(_codec.encode(data.get("value")))
            entry.started_ms = data.get("started_ms", 0)
            entry.ended_ms = data.get("ended_ms", 0)
            self._put(entry, keeps=entry.kind == "update")

    def _entry(self, data: Mapping[str, Any], kind: str) -> Entry:
        known = self.entries.get(data["key"])
        if known is not None:
            return known
        details = msgspec.Raw(_codec.encode(data.get("details")))
        name, digest = data.get("name", ""), data.get("digest", "")
        return Entry(data["key"], kind, name, digest, details=details)

    def _put(self, entry: Entry, *, keeps: bool = False) -> None:
        if not (keeps and entry.number):
            self.number += 1
            entry.number = self.number
        self.entries[entry.key] = entry
