"""Workflow functions that begin before their run is submitted, on a log that nobody reads.

Nothing is lost by it: what happens in memory ends with the process, and until the function first
waits, nobody else has the thread. Whoever asks the engine something meanwhile, from inside a step,
finds the run: it is submitted first (decision 74).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from headrace.coordinator.core import Fitting, Life, Run
from headrace.coordinator.runtime import at_once
from headrace.coordinator.runtime.owner import Owner
from headrace.local.dispatch import WORKER, LocalDispatch
from headrace.messages import StepRan, SubmitRun, Task, Turn, subjects
from headrace.plan import Plan
from headrace.sdk import Workflow
from headrace.worker.core import Assignment, Origin
from headrace.worker.executor import Executor
from headrace.worker.handlers import Context
from headrace.worker.turns import Turns


class Submitter(Protocol):
    """Submits runs."""

    def __call__(self, owner: Owner, plan: Plan, submit: SubmitRun, /) -> asyncio.Future[Run]:
        """Submit a run; its end is to be awaited."""
        ...


class HeadStart:
    """Of one engine. Belongs to one event loop."""

    def __init__(
        self,
        dispatch: LocalDispatch,
        executor: Executor,
        turns: Turns,
        *,
        incarnation: str,
        namespace: str,
        now_ms: Callable[[], int],
        now_s: Callable[[], float],
        submit: Submitter,
    ) -> None:
        self.dispatch, self.executor, self.turns = dispatch, executor, turns
        self.worker, self.namespace = f"{WORKER}.{incarnation}", namespace
        self.now_ms, self.now_s, self.submit = now_ms, now_s, submit
        self._stretches: list[Stretch] = []
        """Functions that have the thread, each begun by a step of the one before."""

    def begin(
        self, owner: Owner, workflow: Workflow[Any, Any], submit: SubmitRun
    ) -> Stretch | None:
        """Begin the function of a run that is not submitted yet; None: submit it instead."""
        begun = owner.brief_now(self.namespace, submit)
        if begun is None or self.turns.draining:
            return None
        program = begun.program
        if not self.dispatch.has_room(program.lane[program.code]):
            return None
        stretch = Stretch(self, owner, workflow.plan, submit, begun)
        now_ms = self.now_ms()
        turn = Turn(msgspec.Raw(begun.input), [], 0, 0, 0, [], [], now_ms, now_ms)
        stretches = self._stretches
        stretches.append(stretch)
        try:
            self.turns.beginnings.begin(workflow, stretch.key, turn, stretch)
        finally:
            stretches.pop()
        return stretch

    def submit_all(self) -> None:
        """Somebody is about to ask the engine something: submit what has begun."""
        for stretch in self._stretches:
            stretch.submitted()


class Stretch:
    """What one function does before it first waits."""

    __slots__ = ("_begun", "_head_start", "_owner", "_plan", "_submit", "_until_s", "ended", "key",
                 "result")  # fmt: skip

    def __init__(
        self, head_start: HeadStart, owner: Owner, plan: Plan, submit: SubmitRun, begun: Fitting
    ) -> None:
        self._head_start, self._owner = head_start, owner
        self._plan, self._submit, self._begun = plan, submit, begun
        self.key = subjects.run_key(head_start.namespace, submit.run)
        self._until_s = head_start.now_s() + at_once.TURN_S
        self.ended: asyncio.Future[Run] | None = None
        """Of the run, if it was submitted."""
        self.result: msgspec.Raw | None = None
        """What the function returned, if it never waited."""

    def goes_on(self) -> bool:
        """See `Host.goes_on`."""
        return self.ended is None and self._head_start.now_s() < self._until_s

    def record(self, ran: list[StepRan], result: msgspec.Raw) -> bool:
        """See `Host.record`."""
        if self.ended is not None:
            return False
        worker = self._head_start.worker
        if not self._owner.lived(Life(self.key, self._submit, self._begun, worker, ran, result)):
            return False
        self.result = result
        return True

    def submitted(self) -> asyncio.Future[Run]:
        """Submit the run, unless that is done; return its end."""
        if self.ended is None:
            self.ended = self._head_start.submit(self._owner, self._plan, self._submit)
        return self.ended

    async def over(self) -> None:
        """Nobody waits for the run any more: stop its function if it never got a turn."""
        await self._head_start.turns.beginnings.drop(self.key)

    def write(self, said: deque[tuple[str, str]]) -> None:
        """See `Host.write`: it goes to the log of the run's one turn."""
        program = self._begun.program
        code, path = program.code, program.path[program.code]
        task = Task(self.key, code, path, 1, 0, program.nodes[code].name, msgspec.Raw(b"\x80"))
        assignment = Assignment(task, Origin(0, program.namespace), 0, 0)
        context = Context(assignment, self._head_start.executor)
        while said:
            stream, text = said.popleft()
            context.log(text, stream=stream)
        if context.opened_log is not None:
            context.opened_log.flush()
