"""Intents in the outbox: what follows what, what is cleared, which ended runs stay for them.

The start of a run goes out until its target says that it is logged, or until the news of its end
is here, whichever comes first. A run stays until that news was logged by those who wait for it. So
when it leaves, with all that is known of its id, nobody sends its start any more, however long the
other shard was without an owner.
"""

from __future__ import annotations

from collections.abc import Iterable

from headrace.coordinator.core.state import OutMessage, Run
from headrace.coordinator.core.tick import Tick
from headrace.events import OutboxCleared, RunEvicted
from headrace.messages import subjects

_AFTER = {"stop": "start"}
"""Never to be sent before: the target would know nothing of what it is to stop."""
_NEWS = {"child-ended": 0, "run-ended": 1}
"""What ended runs stay for -> which argument is the run."""
KEPT_MS = 600_000
"""A start that is on its way may still arrive this long after the run has left."""


def clear(tick: Tick, messages: Iterable[str]) -> None:
    """Another shard (or this one) has these in its log, or needs them no more."""
    state = tick.state
    for message in messages:
        content = state.outbox.get(message)
        if content is None:
            continue
        tick.emit_shard(OutboxCleared(message))
        tick.posted.discard(message)
        # What was held back behind it may go.
        state.outbox_news = True
        if content.kind in _NEWS:
            key = content.args[_NEWS[content.kind]]
            if key in tick.archived:
                evict(tick, tick.archived.pop(key))


def is_held_back(tick: Tick, content: OutMessage) -> bool:
    """Tell whether another intent has to be logged by the target first."""
    before = _AFTER.get(content.kind)
    return before is not None and ":".join([before, *content.args[:2]]) in tick.state.outbox


def evict(tick: Tick, run: Run) -> None:
    """The archive has the run: it leaves, now or when all who wait for its end have heard."""
    state = tick.state
    if state.runs.get(run.key) is not run:
        return
    if any(message in state.outbox for message in _news(run)):
        tick.archived[run.key] = run
        return
    known_ms = run.not_after_ms
    if _news(run):
        known_ms = max(known_ms, state.now_ms + KEPT_MS)
    tick.emit_shard(RunEvicted(run.key, run.fingerprint, run.state, known_ms))


def end_of_child(child: str, holder: str) -> str:
    """Return the id of the intent that tells whoever waits for *child* of its end."""
    return f"child-ended:{child}:{holder}"


def _news(run: Run) -> list[str]:
    """Return the ids of the intents that tell of the end of *run*."""
    found = []
    if run.family is not None and run.family.parent:
        found.append(end_of_child(run.key, run.family.parent))
    schedule = run.labels.get(subjects.SCHEDULE_LABEL)
    if schedule:
        home = subjects.run_key(subjects.split_key(run.key)[0], schedule)
        found.append(f"run-ended:{home}:{run.key}")
    return found
