"""What really happened outside of the log: steps that ran, answers that came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace.messages import ResultBatch, ResultReply, StepResult, Task

if TYPE_CHECKING:
    from support.sim.world import World


@dataclass
class Execution:
    """One time that a step's code began."""

    number: int
    run: str
    step: int
    attempt: int
    token: int
    worker: str
    once: bool
    at_s: float


class Record:
    """Executions and acknowledgements of one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.executions: list[Execution] = []
        self.by_step: dict[tuple[str, int], list[Execution]] = {}
        self.confirmed: dict[tuple[str, int], StepResult] = {}
        """Results that a worker was told are in the log: the newest attempt's."""
        self.acknowledged: list[tuple[str, Any]] = []
        self.workers: set[str] = set()
        """``<id>.<incarnation>`` of all that there ever were."""
        self._decisions: list[tuple[str, str]] = []
        self.changes: list[tuple[int, Any]] = []
        """(shard, request) of those that are about no run."""

    # -- workers -------------------------------------------------------------------------------

    def started(self, worker: str, task: Task, token: int) -> int:
        """A step's code begins; return the execution's number."""
        world = self._world
        once = task.options is not None and task.options.at_most_once
        execution = Execution(
            len(self.executions),
            task.run,
            task.step,
            task.attempt,
            token,
            worker,
            once,
            world.loop.now_s,
        )
        place = (task.run, task.step)
        earlier = self.by_step.setdefault(place, [])
        if once and len(earlier) >= world.oracle.licences(task):
            world.violation(
                f"at-most-once step {task.path} of {task.run} starts again on {worker} "
                f"(attempt {task.attempt}; before: {earlier})"
            )
        again = [e for e in earlier if (e.attempt, e.token) == (task.attempt, token)]
        if again:
            world.violation(
                f"{task.path} of {task.run}: attempt {task.attempt} begins on {worker}, and has "
                f"begun before: {again}"
            )
        done = self.confirmed.get(place)
        if done is not None and task.attempt == done.attempt:
            world.violation(
                f"{task.path} of {task.run}: attempt {task.attempt} runs again on {worker} "
                "after its result was confirmed"
            )
        world.oracle.begins(task)
        self.executions.append(execution)
        earlier.append(execution)
        world.tell(f"{worker} starts {task.run} {task.path} attempt {task.attempt} token {token}")
        return execution.number

    def answered(self, batch: ResultBatch, reply: ResultReply) -> None:
        """A worker received the answer to a batch of results."""
        if reply.retry_after_ms:
            return
        for index, result in enumerate(batch.results):
            if index not in reply.refused:
                self.confirmed[result.run, result.step] = result

    # -- clients -------------------------------------------------------------------------------

    def acknowledge(self, run: str, request: Any) -> None:
        """A client was told that its request is done."""
        self.acknowledged.append((run, request))

    def decided(self, run: str, resolution: str) -> dict[str, Any]:
        """A person decides about a step; return what the step's result is to be."""
        self._decisions.append((f"default/{run}", resolution))
        return {"decision": len(self._decisions) - 1}

    def decision(self, output: Any) -> tuple[str, str] | None:
        """Return the (run, resolution) of what a person said, by the result of the step."""
        number = output.get("decision", -1) if isinstance(output, dict) else -1
        return self._decisions[number] if 0 <= number < len(self._decisions) else None

    def changed(self, shard: int, request: Any) -> None:
        """A client was told that its request, about no run, is done."""
        self.changes.append((shard, request))
