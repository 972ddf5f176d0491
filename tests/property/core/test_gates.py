"""Locks and rate limits: never held by two, never exceeded, whatever is late or sent twice."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.coordinator.core import status
from headrace.coordinator.core.keys import AUDIT_MS
from headrace.events import StepScheduled
from headrace.messages import ResultStatus
from support.core_pair import Pair
from support.core_settings import TIMEOUT_S, examples
from support.corekit import NAMESPACE, START_MS, Kit
from support.plans import group, lock, plan, rate, retry, task

pytestmark = pytest.mark.timeout(TIMEOUT_S)
LOCKS = ("l1", "l2")
RATES = {"x1": (1, 3_000), "x2": (2, 5_000)}
RUNS_MAX = 8


class Gates(RuleBasedStateMachine):
    """Steps and groups of two shards that want locks and rate limits of both, over a bad wire."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.names: list[tuple[int, str]] = []
        self.begun: dict[str, list[int]] = {name: [] for name in RATES}
        """By rate limit, when steps under it began: by the one clock that there is here."""
        self.seen = {1: 0, 2: 0}
        self.tokens: dict[str, int] = {}

    def _kit(self, number: int) -> Kit:
        return self.pair.kits[number]

    @precondition(lambda self: len(self.names) < RUNS_MAX)
    @rule(
        shard=st.sampled_from([1, 2]),
        name=st.sampled_from([*LOCKS, ""]),
        limit=st.sampled_from([*RATES, ""]),
        grouped=st.booleans(),
    )
    def submit(self, shard: int, name: str, limit: str, grouped: bool) -> None:
        options: dict[str, Any] = {}
        if name:
            options["lock"] = lock(name)
        if limit:
            options["rate_limit"] = rate(limit, *RATES[limit])
        if grouped:
            found = plan(group("g", task("a"), task("b", needs=["a"]), **options))
        else:
            found = plan(task("a", retry=retry(2), **options), task("b", needs=["a"]))
        run = f"r{len(self.names)}"
        self._kit(shard).start(found, run)
        self.names.append((shard, run))
        self._note()

    @precondition(lambda self: any(kit.tasks for kit in self.pair.kits.values()))
    @rule(data=st.data(), outcome=st.sampled_from(["ok", "ok", "fail", "back", "lose"]))
    def result(self, data: st.DataObject, outcome: str) -> None:
        tasks = {
            (number, found.token): found
            for number, kit in self.pair.kits.items()
            for found in kit.tasks.values()
        }
        chosen = data.draw(st.sampled_from(sorted(tasks)))
        self._end(self._kit(chosen[0]), tasks[chosen], outcome)

    def _end(self, kit: Kit, found: Any, outcome: str = "ok") -> None:
        doomed = found.step in kit.machine.state.runs[found.run].doomed
        if outcome == "lose":
            kit.tick(
                lambda m: m.lose(found.run, found.step, found.attempt, worker="w.1", reason="x")
            )
        else:
            codes = {"fail": ResultStatus.FAILED, "back": ResultStatus.RETURNED}
            code = ResultStatus.CANCELLED if doomed else codes.get(outcome, ResultStatus.COMPLETED)
            assert kit.report(kit.result(found, code)) == []
        self._note()

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        shard, run = data.draw(st.sampled_from(self.names))
        self._kit(shard).cancel(run)
        self._note()

    @precondition(lambda self: self.pair.wire)
    @rule(data=st.data(), keep=st.booleans(), answer=st.booleans())
    def deliver(self, data: st.DataObject, keep: bool, answer: bool) -> None:
        index = data.draw(st.integers(0, len(self.pair.wire) - 1))
        self.pair.deliver(index, keep=keep and len(self.pair.wire) < 30, answer=answer)
        self._note()

    @precondition(lambda self: self.pair.wire)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        del self.pair.wire[data.draw(st.integers(0, len(self.pair.wire) - 1))]

    @rule()
    def calm(self) -> None:
        self.pair.calm()
        self._note()

    @rule(ms=st.sampled_from([1, 999, 1_000, 2_999, 5_000, AUDIT_MS]))
    def advance(self, ms: int) -> None:
        for kit in self.pair.kits.values():
            kit.now_ms += ms
        for kit in self.pair.kits.values():
            kit.tick()
        self._note()

    @rule()
    def resend(self) -> None:
        self.pair.resend()
        self._note()

    @rule(shard=st.sampled_from([1, 2]))
    def kill(self, shard: int) -> None:
        self.pair.kill(shard)
        self._note()

    @rule(shard=st.sampled_from([1, 2]), credit=st.sampled_from([0, 1, 1_000_000]))
    def slots(self, shard: int, credit: int) -> None:
        self._kit(shard).credit = credit

    def _note(self) -> None:
        """Put what has begun down, with the time."""
        self.pair.collect()
        now_ms = max(kit.now_ms for kit in self.pair.kits.values())
        for kit in self.pair.kits.values():
            # A takeover takes a millisecond: for both.
            kit.now_ms = now_ms
        for number, kit in self.pair.kits.items():
            for _, run in [found for found in self.names if found[0] == number]:
                for event in kit.all_events(run)[self.done(number, run) :]:
                    self._judge(kit, run, event, now_ms)
                self.counted[number, run] = len(kit.all_events(run))

    @property
    def counted(self) -> dict[tuple[int, str], int]:
        return self.__dict__.setdefault("_counted", {})

    def done(self, number: int, run: str) -> int:
        return self.counted.get((number, run), 0)

    def _judge(self, kit: Kit, name: str, event: Any, now_ms: int) -> None:
        run = kit.run(name)
        node: Any = None
        if isinstance(event, StepScheduled) and run.path(event.step) == "a":
            node = run.program.nodes[run.locate(event.step)[0]]
        elif type(event).__name__ == "NodeStarted" and event.node > 0:
            node = run.program.nodes[event.node]
        if node is not None and node.rate_limit is not None:
            self.begun[node.rate_limit.key].append(now_ms)

    @invariant()
    def never_exceeded(self) -> None:
        for name, (limit, per_ms) in RATES.items():
            times = self.begun[name]
            for first, last in zip(times, times[limit:], strict=False):
                assert last - first >= per_ms, f"{name}: {times}"

    @invariant()
    def never_held_by_two(self) -> None:
        for name in LOCKS:
            going = []
            for kit in self.pair.kits.values():
                for run in kit.machine.state.runs.values():
                    for instance, gate in run.gates.items():
                        if gate.lock == f"lock:{NAMESPACE}/{name}":
                            going.append((run.key, instance, gate.lock_holder))
            assert len(going) <= 1, going
            home = self._kit(Pair.home(name))
            record = home.machine.state.keys.get(f"lock:{NAMESPACE}/{name}")
            assert {at[2] for at in going} <= set(record.holders if record else ())

    def teardown(self) -> None:
        """Every run ends, and nothing is held any more."""
        for kit in self.pair.kits.values():
            kit.credit = 1_000_000
        for _ in range(300):
            self.pair.calm()
            self._note()
            self.never_exceeded()
            self.never_held_by_two()
            busy = [(kit, t) for kit in self.pair.kits.values() for t in kit.tasks.values()]
            if busy:
                self._end(*busy[0])
                continue
            if all(status.is_final(self._kit(s).run(run).state) for s, run in self.names):
                break
            self.advance(1_000)
        for shard, run in self.names:
            assert status.is_final(self._kit(shard).run(run).state), f"{run} hangs"
        for _ in range(3):
            self.advance(2 * AUDIT_MS)
            self.pair.calm()
        for kit in self.pair.kits.values():
            assert kit.machine.state.keys == {}
            assert kit.machine.state.outbox == {}


TestGates = Gates.TestCase
TestGates.settings = examples(120, steps=30)


@given(
    limit=st.integers(1, 4),
    per_ms=st.integers(1, 400),
    gaps=st.lists(st.integers(0, 150), min_size=1, max_size=14),
    killed=st.integers(0, 14),
)
@examples(60)
def test_as_a_simple_reference_has_it(
    limit: int, per_ms: int, gaps: list[int], killed: int
) -> None:
    """First come, first served; the one after `limit` others a period after the first of them."""
    kit = Kit(watch=False)
    digest = kit.store(plan(task("a", rate_limit=rate("x", limit, per_ms))))
    arrivals, at_ms = [], START_MS
    for gap in gaps:
        at_ms += gap
        arrivals.append(at_ms)
    wanted: list[int] = []
    for number, arrival in enumerate(arrivals):
        before = wanted[number - limit] + per_ms if number >= limit else 0
        wanted.append(max(arrival, before))
    for number, arrival in enumerate(arrivals):
        _go_to(kit, arrival)
        kit.start(digest, f"r{number}")
        if number == killed:
            kit.kill(snapshot=True)
            kit.now_ms -= 1
    _go_to(kit, wanted[-1] + per_ms)
    begun = [
        event
        for number in range(len(arrivals))
        for event in kit.history(f"r{number}")
        if event.type == "StepScheduled"
    ]
    # A takeover takes a millisecond here.
    slack = 1 + len(arrivals) if killed < len(arrivals) else 0
    for event, time_ms in zip(begun, wanted, strict=True):
        assert time_ms <= event.time_ms + (1 if slack else 0)
        assert event.time_ms <= time_ms + slack


def _go_to(kit: Kit, time_ms: int) -> None:
    """Let time pass, each timer in its own tick."""
    while 0 < (due_ms := kit.machine.timers.next_ms()) <= time_ms:
        kit.now_ms = max(kit.now_ms, due_ms)
        kit.tick()
    kit.now_ms = max(kit.now_ms, time_ms)
