"""One shard's machine, driven as its owner drives it: no log, no broker, no other process."""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from typing import Any

from msgspec import Raw

from headrace.coordinator.core import Machine, ShardState
from headrace.messages import ResultBatch, ResultStatus, StepResult, StorePlan, Task
from headrace.plan import Plan, encode_plan

START_MS = 1_700_000_000_000
BUILTIN = frozenset({"noop"})
EMPTY = Raw(b"\x80")


class Shard:
    """A machine, its clock, and the tasks that are out."""

    def __init__(self, state: ShardState | None = None) -> None:
        state = state or ShardState(0, BUILTIN)
        self.machine = Machine(state, chance=random.random, home=lambda _key: 0)
        self.now_ms = max(START_MS, state.now_ms)
        self.tasks: list[Task] = []
        self._batches = 0

    def tick(self, *requests: Any, results: list[StepResult] | None = None) -> list[Any]:
        """Run one tick as the owner does; return the answers."""
        machine = self.machine
        self.now_ms += 1
        machine.begin(self.now_ms)
        answers = [machine.request("default", request) for request in requests]
        if results:
            machine.results(ResultBatch(1, "w", "1", results))
        machine.fire_timers()
        machine.settle()
        tasks: list[Task] = []
        for lane in list(machine.ready.filled):
            tasks += machine.schedule(lane, 1_000_000, lane)
        self.tasks += tasks
        if machine.dirty:
            self._batches += 1
            machine.finish(batch_id=str(self._batches), epoch=1)
            effects = machine.effects({})
            for run in effects.ended:
                # The archive has it at once.
                machine.evict(run)
        return answers

    def store(self, plan: Plan) -> str:
        """Store a plan; return its digest."""
        (digest,) = self.tick(StorePlan(plan=encode_plan(plan)))
        assert isinstance(digest, str), digest
        return digest

    def work(self) -> int:
        """All tasks that are out end well, in one tick; return how many."""
        tasks, self.tasks = self.tasks, []
        self.tick(results=[self._result(task) for task in tasks])
        return len(tasks)

    def _result(self, task: Task) -> StepResult:
        times = self.now_ms, self.now_ms
        done = ResultStatus.COMPLETED
        return StepResult(task.run, task.step, task.attempt, task.token, done, EMPTY, *times)


def cpu_s() -> float:
    """Return the CPU seconds of this thread: other processes do not count."""
    return time.thread_time()


def in_pieces(pieces: Generator[None, None, Any]) -> tuple[dict[str, float], Any]:
    """Run something that is done in pieces; return what it took, and what it gave.

    In ms of CPU: all of it, and the longest piece, which is how long it holds a loop up.
    """
    longest = total = 0.0
    while True:
        began = cpu_s()
        try:
            next(pieces)
        except StopIteration as end:
            result = end.value
            took = cpu_s() - began
            break
        took = cpu_s() - began
        longest, total = max(longest, took), total + took
    figures = {"ms": (total + took) * 1_000, "longest_ms": max(longest, took) * 1_000}
    return figures, result
