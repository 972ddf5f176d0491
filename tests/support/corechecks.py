"""What must hold of a core's state, whatever happened: legal changes, snapshots that keep all."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from headrace.coordinator.core import (
    Run,
    ShardState,
    decode_state,
    encode_state,
    fold,
    status,
)
from headrace.coordinator.core.gate import Gate
from headrace.coordinator.core.incoming import Incoming, TriggerFacts
from headrace.coordinator.core.journal import Journal
from headrace.coordinator.core.kept_results import KeptResults
from headrace.coordinator.core.key_record import KeyRecord
from headrace.coordinator.core.renumbering import Move, Patches
from headrace.coordinator.core.saga import Saga
from headrace.coordinator.core.scopes import Counts, Scope
from headrace.coordinator.core.state import Family, Job
from headrace.coordinator.core.triggers import Schedule
from headrace.coordinator.core.views import conditions
from headrace.events import JobRestarted, NodeRestarted, PlanPatched

BUILTIN = frozenset({"noop"})


@contextmanager
def anything() -> Iterator[None]:
    yield


@contextmanager
def legal_only() -> Iterator[None]:
    """Check every change of an instance's state, event by event, against the table."""
    evolve = fold.evolve

    def watched(state: ShardState, run: Run, event: Any) -> None:
        before = bytes(run.status)
        evolve(state, run, event)
        if isinstance(event, JobRestarted | NodeRestarted | PlanPatched):
            return
        for instance, (old, new) in enumerate(zip(before, run.status, strict=False)):
            if old != new:
                assert new in status.ALLOWED[old], (
                    f"{type(event).__name__}: {run.path(instance)} went from "
                    f"{status.NAMES[old]} to {status.NAMES[new]}"
                )

    fold.evolve = watched  # type: ignore[assignment]
    try:
        yield
    finally:
        fold.evolve = evolve


def restored(state: ShardState) -> ShardState:
    """Return *state* from its own snapshot; nothing of it may be lost on the way."""
    data = encode_state(state)
    again = decode_state(data, BUILTIN)
    assert encode_state(again) == data
    before, after = facts(state), facts(again)
    for name, value in before.items():
        assert after[name] == value, f"a snapshot does not keep {name}"
    return again


_DERIVED = {
    "programs", "matchers", "leading", "agenda", "outbox_news", "builtin", "program", "expiries",
    "asked",
}  # fmt: skip
"""What a snapshot does not hold: caches, and the order of a heap."""


_RECORDS = (
    ShardState
    | Run
    | Counts
    | Family
    | Gate
    | KeptResults
    | Job
    | Journal
    | Saga
    | Scope
    | KeyRecord
    | Schedule
    | Incoming
    | TriggerFacts
    | Patches
    | Move
)  # fmt: skip


def as_counted(run: Run) -> str:
    """Return how a live run must be counted: as pending, by its first condition, or as running."""
    if run.state == status.PENDING:
        return "pending"
    return (*conditions(run), "running")[0].lower()


def facts(value: Any) -> Any:
    """Return any part of the state as plain data, by looking at all attributes that there are."""
    if isinstance(value, _RECORDS):
        names = getattr(type(value), "__slots__", None) or vars(value)
        found = {name: getattr(value, name) for name in names if name not in _DERIVED}
        if isinstance(value, ShardState):
            found["plan_uses"] = {k: n for k, n in value.plan_uses.items() if n}
        if isinstance(value, Run):
            found["iterations"] = {k: v for k, v in value.iterations.items() if v}
        return {name: facts(part) for name, part in found.items()}
    if isinstance(value, dict):
        return {key: facts(item) for key, item in value.items()}
    if isinstance(value, list | tuple | deque):
        return [facts(item) for item in value]
    return value
