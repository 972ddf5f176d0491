"""Random workflows, results, losses, clocks and crashes: what must hold after every tick.

`Kit` checks after each tick that a follower has the same state, that every change of a state is
legal, that nobody is left ready and unqueued, and that `explain` has a reason for every live run.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.coordinator.core import Refusal, Run, state_hash, status
from headrace.events import (
    JobRestarted,
    NodeEnded,
    RunEnded,
    StepClaimed,
    StepCompleted,
    StepFailed,
    StepReturned,
    StepScheduled,
)
from headrace.messages import Claim, ResultStatus, StepError, StepResult
from headrace.messages import Task as WireTask
from headrace.plan import Task
from support.core_plans import whole_plans
from support.core_settings import TIMEOUT_S, examples
from support.corekit import NAMESPACE, UNLIMITED, Kit, restored

pytestmark = pytest.mark.timeout(TIMEOUT_S)
RUNS_MAX = 4
ROUNDS_MAX = 600
WORKERS = ("w1", "w2")


def at_most_once(run: Run, step: int) -> bool:
    node = run.program.nodes[run.locate(step)[0]]
    return isinstance(node, Task) and node.effect == "at-most-once"


class Workflows(RuleBasedStateMachine):
    """One shard, two workers, up to four runs of random plans."""

    def __init__(self) -> None:
        super().__init__()
        self.draws = 0
        self.kit = Kit(chance=self._chance)
        self.kit.workers = dict.fromkeys(WORKERS, frozenset())
        self.late: list[StepResult] = []
        self.done: dict[tuple[str, int], str] = {}
        self.tokens: set[int] = set()
        self.claimed: set[tuple[str, int]] = set()
        self.names: list[str] = []

    def _chance(self) -> float:
        self.draws += 1
        return (self.draws * 0.37) % 1.0

    # -- clients --------------------------------------------------------------------------------

    @initialize(plan=whole_plans())
    def first(self, plan: Any) -> None:
        self._submit(plan)

    @precondition(lambda self: len(self.names) < RUNS_MAX)
    @rule(plan=whole_plans())
    def submit(self, plan: Any) -> None:
        self._submit(plan)

    def _submit(self, plan: Any) -> None:
        name = f"r{len(self.names)}"
        self.names.append(name)
        reply = self.kit.submit(plan, name, priority=len(self.names) % 3)
        assert not isinstance(reply, Refusal), reply

    def _some_run(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(self.names))

    @rule(data=st.data(), name=st.sampled_from(["s1", "s2"]))
    def signal(self, data: st.DataObject, name: str) -> None:
        self.kit.signal(name, {"n": self.draws}, self._some_run(data))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.kit.cancel(self._some_run(data))

    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        self.kit.pause(self._some_run(data))

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        self.kit.resume(self._some_run(data))

    @rule()
    def park(self) -> None:
        """What only waits is held as bytes from now on; nobody can tell."""
        self.kit.park()

    # -- workers --------------------------------------------------------------------------------

    @precondition(lambda self: self.kit.tasks)
    @rule(data=st.data())
    def result(self, data: st.DataObject) -> None:
        """Some attempts end, in any order, some of them badly."""
        tasks = {task.token: task for task in self.kit.tasks.values()}
        tokens = st.sampled_from(sorted(tasks))
        some = st.lists(tokens, min_size=1, max_size=4, unique=True)
        chosen = [tasks[token] for token in data.draw(some)]
        outcomes = st.sampled_from(["ok", "ok", "ok", "ok", "fail", "fatal", "cancelled", "back"])
        results = [self._result(task, data.draw(outcomes)) for task in chosen]
        self.late += results
        worker = data.draw(st.sampled_from(WORKERS))
        assert self.kit.report(*results, worker=worker) == []

    def _result(self, task: WireTask, outcome: str) -> StepResult:
        kit = self.kit
        if outcome == "ok":
            return kit.result(task, ResultStatus.COMPLETED, output={"t": task.token})
        if outcome == "cancelled":
            return kit.result(task, ResultStatus.CANCELLED)
        if outcome == "back":
            return kit.result(task, ResultStatus.RETURNED)
        error = StepError("boom", "no", outcome != "fatal")
        return kit.result(task, ResultStatus.FAILED, error=error)

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        """Old results come once more, or too late: they change nothing."""
        result = data.draw(st.sampled_from(self.late))
        before = len(self.kit.log)
        self.kit.report(result)
        for _, event in self.kit.fresh if len(self.kit.log) > before else ():
            assert not isinstance(event, StepCompleted | StepFailed)

    @precondition(lambda self: self.kit.tasks)
    @rule(data=st.data(), worker=st.sampled_from(WORKERS))
    def lose(self, data: st.DataObject, worker: str) -> None:
        task = data.draw(st.sampled_from(sorted(self.kit.tasks.values(), key=lambda t: t.token)))
        # The worker was frozen, not dead: its answer comes later.
        self.late.append(self._result(task, data.draw(st.sampled_from(["ok", "fail"]))))
        self.kit.tick(
            lambda m: m.lose(task.run, task.step, task.attempt, worker=f"{worker}.1", reason="x")
        )

    @rule(worker=st.sampled_from(WORKERS))
    def lose_worker(self, worker: str) -> None:
        self.kit.lose_worker(worker)

    @precondition(lambda self: self.kit.tasks)
    @rule(data=st.data(), worker=st.sampled_from(WORKERS))
    def claim(self, data: st.DataObject, worker: str) -> None:
        task = data.draw(st.sampled_from(sorted(self.kit.tasks.values(), key=lambda t: t.token)))
        claim = Claim(1, worker, "1", task.run, task.step, task.attempt, task.token)
        self.kit.tick(lambda m: m.claim(claim, start_by_ms=self.kit.now_ms + 1_000))

    # -- time and crashes -----------------------------------------------------------------------

    @rule(ms=st.sampled_from([1, 500, 1_000, 5_000]))
    def advance(self, ms: int) -> None:
        self.kit.advance(ms)

    @rule(credit=st.sampled_from([0, 1, UNLIMITED]))
    def slots(self, credit: int) -> None:
        """So many steps a lane and tick are dispatched from now on."""
        self.kit.credit = credit

    @rule(snapshot=st.booleans())
    def kill(self, snapshot: bool) -> None:
        self.kit.kill(snapshot=snapshot)

    # -- what must hold -------------------------------------------------------------------------

    @invariant()
    def recorded_once(self) -> None:
        """A final result is never recorded again, unless its job began anew in between."""
        kit = self.kit
        for name in self.names:
            run = kit.run(name)
            for event in kit.all_events(name)[self.done_of(name) :]:
                self._judge(run, event)
            self.done[name, -1] = str(run.events)

    def done_of(self, name: str) -> int:
        return int(self.done.get((name, -1), "0"))

    def _judge(self, run: Run, event: Any) -> None:
        if isinstance(event, StepClaimed):
            self.claimed.add((run.key, event.step))
        elif isinstance(event, StepCompleted | StepFailed | StepReturned):
            self.claimed.discard((run.key, event.step))
        elif isinstance(event, StepScheduled) and at_most_once(run, event.step):
            assert (run.key, event.step) not in self.claimed, "it may have run, and runs again"
        if isinstance(event, JobRestarted):
            for inner in run.descendants(event.node):
                assert (run.key, inner) not in self.claimed or not at_most_once(run, inner)
                self.done.pop((run.key, inner), None)
            # Iterations of before the restart are gone; their numbers are never used again.
        elif isinstance(event, StepScheduled | StepCompleted | StepFailed):
            if isinstance(event, StepScheduled):
                assert event.token not in self.tokens, "a fencing token was used twice"
                self.tokens.add(event.token)
            assert (run.key, event.step) not in self.done, (event, self.done[run.key, event.step])
            if not isinstance(event, StepScheduled) and not getattr(event, "retry_ms", 0):
                self.done[run.key, event.step] = repr(event)
        elif isinstance(event, NodeEnded):
            assert event.status in status.FINAL
        elif isinstance(event, RunEnded):
            assert (run.key, 0) not in self.done
            self.done[run.key, 0] = repr(event)

    @invariant()
    def views_render(self) -> None:
        kit = self.kit
        for name in self.names:
            view = kit.view(name)
            assert len({step.path for step in view.steps}) == len(view.steps)
            numbers = [entry.number for entry in kit.history(name)]
            assert numbers == list(range(1, len(numbers) + 1))
            msgspec.json.encode(view)

    @invariant()
    def keys_hold(self) -> None:
        """A key is never held by more than it may be, and only by what lives."""
        state = self.kit.machine.state
        for record in state.keys.values():
            assert len(record.holders) <= max(record.limit, 2)
            for holder in record.holders:
                assert not status.is_final(state.runs[holder.partition("#")[0]].state)
        assert not state.outbox, "all of it is for this very shard"

    def teardown(self) -> None:
        """Whatever has happened: every run ends, and frees what it held."""
        kit = self.kit
        assert state_hash(restored(kit.folder.state)) == state_hash(kit.folder.state)
        kit.credit = UNLIMITED
        kit.kill()
        for name in self.names:
            if kit.run(name).paused and not status.is_final(kit.run(name).state):
                kit.resume(name)
        for _ in range(ROUNDS_MAX):
            if all(status.is_final(kit.run(name).state) for name in self.names):
                break
            self._go_on()
        assert {name: kit.state(name) for name in self.names if not self._over(name)} == {}
        # What has begun within a rate limit counts for its period.
        kit.advance(3_000)
        assert not kit.machine.state.keys
        assert not kit.machine.state.outbox
        for name in self.names:
            if kit.state(name) != "COMPLETED":
                assert kit.run(name).ended_reason, f"{name} ended without a reason"
        self.recorded_once()

    def _over(self, name: str) -> bool:
        return status.is_final(self.kit.run(name).state)

    def _go_on(self) -> None:
        kit = self.kit
        if kit.tasks:
            task = min(kit.tasks.values(), key=lambda found: found.token)
            run = kit.machine.state.runs[task.run]
            doomed = run.instance(task.step) in run.doomed
            kit.report(self._result(task, "cancelled" if doomed else "ok"))
            return
        for name in self.names:
            run = kit.machine.state.runs[f"{NAMESPACE}/{name}"]
            for signal in set(run.waits.values()):
                kit.signal(signal, {}, name)
                return
        kit.next_timer()


TestWorkflows = Workflows.TestCase
TestWorkflows.settings = examples(250)
