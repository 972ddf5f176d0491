"""Events from outside: read in the system shard, which knows what is registered, and begun runs.

The position in their stream is state, and a run's id is made of the definition and of the event's
number: whatever is read again, or by a successor, begins no second run. What begins no run because
something is wrong with it is counted, and said; it holds up nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from headrace.coordinator.core.matching import Matcher, event_context, matchers
from headrace.coordinator.core.ready import EVENTS_TIMER
from headrace.coordinator.core.starting import PROBLEM_MAX, begin
from headrace.coordinator.core.state import ShardState
from headrace.coordinator.core.tick import Tick
from headrace.coordinator.core.trigger_events import declined_id
from headrace.errors import HeadraceError, InvalidRequest, LimitExceeded
from headrace.events import (
    BegunByEvent,
    DebounceEnded,
    EventRunDeclined,
    EventsTaken,
    HeldForQuiet,
    TriggerFailed,
)
from headrace.messages import Arrival, subjects, valid_traceparent
from headrace.plan import Debounce, decode_plan

WAITING_MAX: Final = 5_000
"""Intents for other shards; while there are more, no event is read."""
FACT_BYTES_MAX: Final = 256 * 1024
"""Inputs of one logged fact, about; those of one tick may be more."""
LABEL_BYTES_MAX: Final = 256

_encode = msgspec.msgpack.Encoder().encode


class Taken(NamedTuple):
    """What became of the events of one `take`, for people."""

    begun: int
    failed: list[tuple[Arrival, str, str]]
    """Event, definition, and what is wrong."""
    unmatched: int
    """Events that begin nothing, as it should be."""
    held: int = 0
    """Runs that begin when no other event like theirs comes for a while."""


def has_room(state: ShardState) -> bool:
    """Tell whether what is begun already leaves so fast that more may be read."""
    return len(state.outbox) < WAITING_MAX


def take(tick: Tick, stream: str, arrivals: Sequence[Arrival]) -> Taken:
    """Look at *arrivals*, in order, of the stream that was made at *stream*; idempotent."""
    return _Taking(tick, stream).take(arrivals)


class _Taking:
    """One `take`: gathers what is logged together."""

    def __init__(self, tick: Tick, stream: str) -> None:
        self._tick, self._stream = tick, stream
        self._begun: list[BegunByEvent] = []
        self._failed: list[tuple[str, str]] = []
        self._held: dict[str, HeldForQuiet] = {}
        self._bytes = self._count = self._held_count = 0
        self._told: list[tuple[Arrival, str, str]] = []

    def take(self, arrivals: Sequence[Arrival]) -> Taken:
        known = self._tick.state.incoming.behind(self._stream)
        unmatched = 0
        last = known
        for arrival in arrivals:
            if arrival.sequence <= last:
                continue
            before = self._figures()
            self._look_at(arrival, last)
            unmatched += before == self._figures()
            last = arrival.sequence
        if last > known or self._begun or self._failed or self._held:
            self._state(last)
        return Taken(self._count, self._told, unmatched, self._held_count)

    def _figures(self) -> tuple[int, int, int]:
        return self._count, self._held_count, len(self._told)

    def _state(self, position: int) -> None:
        tick, held = self._tick, list(self._held.values())
        known = tick.state.incoming.held
        before = {item.name: known[item.name].due_ms for item in held if item.name in known}
        tick.emit_shard(EventsTaken(self._stream, position, self._begun, self._failed, held))
        for item in held:
            # An armed timer looks at the state when it fires: only an earlier one is new to it.
            if item.due_ms < before.get(item.name, item.due_ms + 1):
                tick.timers.push(item.due_ms, item.name, EVENTS_TIMER)
        self._begun, self._failed, self._held, self._bytes = [], [], {}, 0

    def _look_at(self, arrival: Arrival, before: int) -> None:
        """Find what *arrival* begins: of each definition one run, by the first fitting entry."""
        tokens = arrival.subject.split(".")
        context: dict[str, Any] | None = None
        done: set[str] = set()
        for key, version, matcher in _entries(self._tick.state).get(arrival.namespace, ()):
            if key in done or not matcher.covers(tokens):
                continue
            try:
                if context is None:
                    context = event_context(arrival)
                if not matcher.wants(context):
                    continue
                done.add(key)
                self._begin(arrival, key, version, matcher, context)
            except HeadraceError as error:
                done.add(key)
                self._fail(arrival, key, str(error))
            except Exception as error:
                # Whatever is wrong with it: the events behind it must not wait for ever.
                done.add(key)
                self._fail(arrival, key, f"{type(error).__name__}: {error}")
            if self._bytes > FACT_BYTES_MAX:
                self._state(before)

    def _begin(
        self,
        arrival: Arrival,
        key: str,
        version: str,
        matcher: Matcher,
        context: dict[str, Any],
    ) -> None:
        state = self._tick.state
        try:
            data = _encode(matcher.inputs(context))
        except OverflowError as error:
            raise InvalidRequest("no input can hold a number that large") from error
        limit = self._tick.limits.input_bytes
        if len(data) > limit:
            raise LimitExceeded(f"an input of {len(data)} bytes; the limit is {limit}")
        digest = state.definitions[key][version].digest
        run = subjects.event_run(key, self._stream, arrival.sequence)
        labels = {
            subjects.EVENT_LABEL: _short(arrival.subject),
            subjects.EVENT_ID_LABEL: _short(context["id"]),
            subjects.DEFINITION_LABEL: f"{subjects.split_key(key)[1]}@{version}",
        }
        if trace := _trace_of(arrival):
            labels[subjects.TRACE_LABEL] = trace
        begun = BegunByEvent(key, digest, run, data, labels)
        self._bytes += len(data)
        if matcher.trigger.debounce is not None:
            self._hold(matcher, matcher.trigger.debounce, begun, context)
            return
        self._begun.append(begun)
        self._count += 1

    def _hold(
        self, matcher: Matcher, debounce: Debounce, begun: BegunByEvent, context: dict[str, Any]
    ) -> None:
        """Have the run begin when no other event of its key has come for a while."""
        state, limit = self._tick.state, self._tick.limits.held
        name = f"{begun.definition}#{matcher.index}:{matcher.key(context)}"
        found = state.incoming.held.get(name)
        if found is None and len(state.incoming.held) + len(self._held) >= limit:
            raise LimitExceeded(f"{limit} runs wait for a quiet time (debounce)")
        due_ms = state.now_ms + debounce.period_ms
        if debounce.max_ms:
            first_ms = found.first_ms if found is not None else state.now_ms
            due_ms = max(min(due_ms, first_ms + debounce.max_ms), state.now_ms)
        self._held[name] = HeldForQuiet(name, begun, due_ms)
        self._held_count += 1

    def _fail(self, arrival: Arrival, key: str, problem: str) -> None:
        shown = f"event {arrival.id or arrival.sequence} ({arrival.subject}): {problem}"
        self._failed.append((key, shown[:PROBLEM_MAX]))
        self._told.append((arrival, key, problem[:PROBLEM_MAX]))


def _entries(state: ShardState) -> dict[str, list[tuple[str, str, Matcher]]]:
    """Return what waits for events, by namespace; made again when something is registered."""
    incoming = state.incoming
    if incoming.matchers is None:
        found: dict[str, list[tuple[str, str, Matcher]]] = {}
        for key in sorted(incoming.triggers):
            versions = state.definitions[key]
            version = next(reversed(versions))
            plan = decode_plan(state.plans[versions[version].digest])
            entries = found.setdefault(subjects.split_key(key)[0], [])
            entries += [(key, version, matcher) for matcher in matchers(plan)]
        incoming.matchers = found
    return incoming.matchers


def _trace_of(arrival: Arrival) -> str:
    """Return the trace context that an event came with, as CloudEvents has it, too; empty: none."""
    headers = {name.lower(): value for name, value in arrival.headers.items()}
    found = headers.get("traceparent") or headers.get("ce-traceparent", "")
    return found if valid_traceparent(found) else ""


def _short(text: str) -> str:
    """Return *text*, as much of it as a label may have."""
    if len(text.encode()) <= LABEL_BYTES_MAX:
        return text
    return text.encode()[: LABEL_BYTES_MAX - 3].decode(errors="ignore") + "…"


def fire_due(tick: Tick, name: str) -> int:
    """It may have been quiet for long enough; return 1 if so, else 0."""
    held = tick.state.incoming.held.get(name)
    if held is None:
        return 0
    if held.due_ms > tick.state.now_ms:
        tick.timers.push(held.due_ms, name, EVENTS_TIMER)
        return 0
    tick.emit_shard(DebounceEnded(name))
    return 1


def arm(tick: Tick) -> None:
    """Have the timers know of all that is held."""
    for name, held in tick.state.incoming.held.items():
        tick.timers.push(held.due_ms, name, EVENTS_TIMER)


# -- runs, in their own shard; and what becomes of them -------------------------------------------


def start(
    tick: Tick,
    key: str,
    run: str,
    plan: bytes,
    given: bytes,
    labels: dict[str, str],
    digest: str = "",
) -> bool:
    """Begin a run that an event wants of definition *key*; False: there is no room for it now."""
    if len(tick.state.runs) >= tick.limits.runs and run not in tick.state.runs:
        return False
    problem = begin(
        tick,
        run,
        plan,
        given,
        labels,
        cause=key,
        actor=f"event {labels[subjects.EVENT_LABEL]}",
        mark=subjects.EVENT_ID_LABEL,
        digest=digest,
    )
    if problem:
        tick.emit_shard(EventRunDeclined(run, key, problem))
    return True


def declined(tick: Tick, key: str, run: str, problem: str) -> None:
    """A run that an event wanted could not begin."""
    name = declined_id(key, run)
    if key in tick.state.incoming.triggers and name not in tick.state.requests:
        tick.emit_shard(TriggerFailed(key, run, problem))
