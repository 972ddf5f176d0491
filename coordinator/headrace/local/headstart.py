"""Functions and handlers that begin before their run is submitted, on a log that nobody reads.

Nothing is lost by it: what happens in memory ends with the process, and until a function first
waits, nobody else has the thread. Whoever asks the engine something meanwhile, from inside a step,
finds the run: it is submitted first (decision 74).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from headrace.coordinator.core import Fitting, Life, Program, Run, TaskLife
from headrace.coordinator.runtime import at_once
from headrace.coordinator.runtime.owner import Owner
from headrace.local.dispatch import WORKER, LocalDispatch
from headrace.local.starts import Starts
from headrace.local.submits import with_input
from headrace.messages import ResultStatus, StepRan, SubmitRun, Task, Turn, subjects
from headrace.plan import Plan
from headrace.plan import Task as TaskNode
from headrace.sdk import Workflow
from headrace.worker.core import Assignment, Origin
from headrace.worker.executor import Executor
from headrace.worker.handlers import Context
from headrace.worker.turns import Turns


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
        starts: Starts,
    ) -> None:
        self.dispatch, self.executor, self.turns = dispatch, executor, turns
        self.worker, self.namespace = f"{WORKER}.{incarnation}", namespace
        self.now_ms, self.now_s, self.starts = now_ms, now_s, starts
        self._stretches: list[Stretch] = []
        """Those that have the thread, each begun by a step of the one before."""

    def begin(
        self, owner: Owner, workflow: Workflow[Any, Any], submit: SubmitRun, data: bytes
    ) -> FunctionStretch | None:
        """Begin the function of a run that is not submitted yet; None: submit it instead.

        *data*: its input, encoded; *submit* has none.
        """
        begun = self._may_begin(owner, submit, data)
        if begun is None or self.turns.draining:
            return None
        stretch = FunctionStretch(self, owner, workflow.plan, submit, begun)
        now_ms = self.now_ms()
        turn = Turn(msgspec.Raw(begun.input), [], 0, 0, 0, [], [], now_ms, now_ms)
        self._stretches.append(stretch)
        try:
            self.turns.beginnings.begin(workflow, stretch.key, turn, stretch)
        finally:
            self._stretches.pop()
        return stretch

    def begin_task(self, owner: Owner, plan: Plan, submit: SubmitRun) -> Stretch | None:
        """Begin the one task of a run that is not submitted yet; None: submit it instead.

        If it has completed, `Stretch.is_recorded`: the run ends in the next tick.
        """
        begun = self._may_begin(owner, submit)
        if begun is None:
            return None
        stretch = Stretch(self, owner, plan, submit, begun)
        task = self._task(owner, stretch.key, begun.program)
        self._stretches.append(stretch)
        try:
            result = self.dispatch.begin(task)
        finally:
            self._stretches.pop()
        if (
            result is not None
            and result.status == ResultStatus.COMPLETED
            and stretch.ended is None
            and owner.lived(TaskLife(stretch.key, submit, begun, self.worker, result), works=True)
        ):
            stretch.is_recorded = True
            self.dispatch.drop(stretch.key, 1)
        return stretch

    def _task(self, owner: Owner, run: str, program: Program) -> Task:
        node, content = program.nodes[1], program.plain[1]
        assert isinstance(node, TaskNode)
        assert content is not None
        assert owner.machine is not None
        # Higher than that of any step that was dispatched before.
        token = owner.machine.state.token_last + 1
        path = program.path[1]
        return Task(run, 1, path, 1, token, node.uses, content.inputs, content.options)

    def _may_begin(
        self, owner: Owner, submit: SubmitRun, data: bytes | None = None
    ) -> Fitting | None:
        begun = owner.brief_now(self.namespace, submit, data)
        if begun is None or not self.dispatch.has_room(begun.program.lane[1]):
            return None
        return begun

    def submit_all(self) -> None:
        """Somebody is about to ask the engine something: submit what has begun."""
        for stretch in self._stretches:
            stretch.submitted()


class Stretch:
    """What one run does before it first waits."""

    __slots__ = (
        "_begun",
        "_head_start",
        "_owner",
        "_plan",
        "_submit",
        "ended",
        "is_recorded",
        "key",
    )

    def __init__(
        self, head_start: HeadStart, owner: Owner, plan: Plan, submit: SubmitRun, begun: Fitting
    ) -> None:
        self._head_start, self._owner = head_start, owner
        self._plan, self._submit, self._begun = plan, submit, begun
        self.key = subjects.run_key(head_start.namespace, submit.run)
        self.ended: asyncio.Future[Run] | None = None
        """Of the run, if it was submitted."""
        self.is_recorded = False
        """It has ended, and needs not be submitted."""

    def submitted(self) -> asyncio.Future[Run]:
        """Submit the run, unless that is done; return its end."""
        if self.ended is None:
            self.ended = self._head_start.starts.post(self._owner, self._plan, self._submit)
        return self.ended

    async def end(self) -> Run:
        """Return the run when it has ended; submit it if that is needed. See `Starts.end`."""
        starts, owner, name = self._head_start.starts, self._owner, self._submit.run
        if self.is_recorded:
            return await starts.end(owner, name, starts.ends.expect(self.key))
        try:
            return await starts.end(owner, name, self.submitted(), alone=True)
        finally:
            await self._stop()

    async def _stop(self) -> None:
        """Nobody waits any more: stop the step, if it was never dispatched."""
        self._head_start.dispatch.drop(self.key, 1)


class FunctionStretch(Stretch):
    """What one function does before it first waits; its `Host`."""

    __slots__ = ("_until_s", "result")

    def __init__(
        self, head_start: HeadStart, owner: Owner, plan: Plan, submit: SubmitRun, begun: Fitting
    ) -> None:
        super().__init__(head_start, owner, plan, submit, begun)
        self._until_s = head_start.now_s() + at_once.TURN_S
        self.result: msgspec.Raw | None = None
        """What the function returned, if it never waited."""

    def submitted(self) -> asyncio.Future[Run]:
        """See `Stretch.submitted`."""
        if self.ended is None:
            self._submit = with_input(self._submit, self._begun.input)
        return super().submitted()

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
        self.is_recorded, self.result = True, result
        return True

    async def _stop(self) -> None:
        """Nobody waits any more: stop the function, if it never got a turn."""
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
