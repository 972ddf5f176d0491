"""One turn of a workflow function: steps run, reports go out, replies come in.

The shell around `Execution`: it knows the clock and asyncio, and its owner by a port (`Desk`). One
report is on its way at a time; steps run beside it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from headrace.eager import begin
from headrace.messages import (
    Change,
    ChildBegun,
    Entry,
    EntryDropped,
    LabelsSet,
    Query,
    QueryAnswer,
    SignalAwaited,
    SleepBegun,
    StepBeat,
    StepRan,
    StepTried,
    Turn,
    TurnEnd,
    TurnOutcome,
    TurnReply,
    UpdateAnswered,
)
from headrace.retry import RetryAt
from headrace.sdk import _codec
from headrace.sdk._attempt import StepInfo, run_step
from headrace.sdk._beats import Beats
from headrace.sdk._context import Context
from headrace.sdk._entries import StepRun
from headrace.sdk._errors import StepFailure, error_of
from headrace.sdk._execution import Execution
from headrace.sdk._retry import matched_type
from headrace.sdk._workflow import Workflow

log = logging.getLogger(__name__)
_abandoned: Final[set[asyncio.Task[None]]] = set()
"""Steps that do not end when they are cancelled: here, so that they are not lost in the middle."""

SHORT_RETRY_MS: Final = 2_000
"""A pause before another attempt that is no longer than this keeps the turn."""
STOP_S: Final = 10.0
"""For steps that are not wanted any more to end."""


class Desk(Protocol):
    """The owner, as a turn sees it."""

    async def report(
        self,
        *,
        seen: int,
        changes: list[Change],
        end: TurnEnd | None,
        answers: list[QueryAnswer],
        ahead: int = 0,
    ) -> TurnReply:
        """Return the owner's final reply: sent again until there is one.

        Raises `HeadraceError` when it is given up; the turn is over then.
        """
        ...

    async def outgoing(self, data: bytes) -> bytes:
        """Return a reference to where *data*, which is large, was put; or *data* all the same."""
        ...

    @property
    def inline_bytes(self) -> int:
        """What is no longer than this is not large."""
        ...

    def beat(self) -> None:
        """Note a sign of life; from any thread. What it says of itself is in reports."""
        ...


class Terms(NamedTuple):
    """What differs between hosts."""

    now_ms: Callable[[], int]
    chance: Callable[[], float] = random.random
    short_retry_ms: int = SHORT_RETRY_MS


class Left(Exception):
    """The turn was left in the middle: the worker drains. Hand it back."""


class _Ended(msgspec.Struct, gc=False):
    """An attempt of a step that has ended."""

    operation: StepRun[Any]
    started_ms: int
    ended_ms: int
    value: Any
    error: BaseException | None
    details: bytes


def new_execution(
    workflow: Workflow[Any, Any],
    run: str,
    turn: Turn,
    *,
    on_log: Callable[[str, str], None] | None = None,
) -> Execution:
    """Return a fresh function, fed with the entries of *turn*, which must be all there are."""
    execution = Execution(
        run=run,
        workflow=f"{workflow.app}/{workflow.name}",
        generation=turn.generation,
        created_ms=turn.created_ms,
        skip=turn.skip,
        on_log=on_log,
    )
    main = _main(workflow, Context(execution), turn.input)
    execution.begin(main, turn.entries, now_ms=turn.now_ms)
    return execution


async def _main(workflow: Workflow[Any, Any], ctx: Context, data: msgspec.Raw) -> Any:
    """Run the function; undo what it registered when it fails."""
    try:
        inputs = workflow.signature.from_map(data)
        return await workflow.function(ctx, **inputs)
    except (Exception, asyncio.CancelledError) as error:
        failures = await ctx.undo()
        if failures:
            text = "; ".join(str(failure) for failure in failures)
            told = error_of(error)
            message = f"{told.message}; and undoing it failed: {text}"
            raise StepFailure("compensation-failed", message, retryable=False) from error
        raise


class TurnRun:
    """Drives one execution through one turn: ``await run()``."""

    def __init__(
        self, workflow: Workflow[Any, Any], execution: Execution, desk: Desk, terms: Terms
    ) -> None:
        self.execution = execution
        """Another one once the journal has overtaken it."""
        self._workflow = workflow
        self._desk, self._terms = desk, terms
        self._running: dict[StepRun[Any], asyncio.Task[None]] = {}
        self._stopping: set[asyncio.Task[None]] = set()  # Cancelled steps, which clean up.
        self._ended: list[_Ended] = []
        self._stirred = False
        """Something has happened since the loop's last round began."""
        self._waiter: asyncio.Future[None] | None = None
        self._beats = Beats(self._stir)
        self._asked = False
        """The owner has something to say: report, even if there is nothing to report."""
        self._leaving = False
        self._ahead = 0
        """So many results in the next report are known to the function already."""
        self._queries: list[Query] = []
        self._timer: asyncio.TimerHandle | None = None
        self.backlog: list[Entry] = []
        """What came with the last reply of a turn that waits: to be fed in the next turn."""

    # -- from outside --------------------------------------------------------------------------

    def wake(self) -> None:
        """The owner has news (`TurnWake`)."""
        self._asked = True
        self._stir()

    def ask(self, queries: Iterable[Query]) -> None:
        """Let the function answer *queries* in the next report."""
        self._queries += queries
        self._stir()

    def leave(self) -> None:
        """Let go as soon as no step runs and all is reported: `run` raises `Left`."""
        self._leaving = True
        self._stir()

    def _stir(self) -> None:
        self._stirred = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def run(self, turn: Turn) -> TurnEnd | None:
        """Go on until the turn ends; return how it ended, None when the owner refused it.

        Raises `Left`, and `HeadraceError` when the owner cannot be reached. However it ends, no
        step runs any more; after anything but WAITING the execution is worth nothing.
        """
        self._queries += turn.queries
        try:
            return await self._loop(turn)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._running or self._stopping:
                await self._stop_all()
            self._beats.close()

    # -- the loop ------------------------------------------------------------------------------

    async def _loop(self, turn: Turn) -> TurnEnd | None:
        while True:
            execution = self.execution
            self._stirred = False
            if self._queries:
                execution.ask(self._queries)
                self._queries = []
            if self._ended:
                await self._collect()
            if self._beats.due:
                await self._record_beats()
            if execution.stops:
                self._stop_unwanted()
            if execution.todo and execution.outcome is None and not (self._ahead or self._leaving):
                self._start_steps()
                if self._ended:
                    # Some have ended in their first step: that is part of this very report.
                    continue
            end = self._end()
            if execution.outcome is not None and (self._running or self._stopping):
                await self._stop_all()
            if end is None and not (execution.changes or execution.answers or self._asked):
                await self._rest()
                continue
            reply = await self._report(end)
            if reply.refused:
                return None
            if reply.overtaken:
                if not await self._replay(turn):
                    return None
                continue
            execution.caught_up()
            if end is not None:
                self.backlog = reply.entries
                return end
            if reply.queries:
                self._queries += reply.queries
            execution.feed(reply.entries)

    async def _rest(self) -> None:
        """Return when something has happened. Raises `Left`."""
        if self._leaving and not self._running:
            raise Left
        if not self._stirred:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def _replay(self, turn: Turn) -> bool:
        """Run the function again from its journal; False: the turn is refused."""
        old = self.execution
        old.close()
        reply = await self._desk.report(seen=0, changes=[], end=None, answers=[])
        if reply.refused:
            return False
        self._queries += reply.queries
        whole = msgspec.structs.replace(turn, entries=reply.entries)
        self.execution = new_execution(self._workflow, old.run, whole, on_log=old.on_log)
        return True

    async def _report(self, end: TurnEnd | None) -> TurnReply:
        execution = self.execution
        changes, execution.changes = execution.changes, []
        answers, execution.answers = execution.answers, []
        ahead, self._ahead = self._ahead, 0
        self._asked = False
        if end is not None and len(end.value) > self._desk.inline_bytes:
            value = msgspec.Raw(await self._desk.outgoing(bytes(end.value)))
            end = msgspec.structs.replace(end, value=value)
        return await self._desk.report(
            seen=execution.seen, changes=changes, end=end, answers=answers, ahead=ahead
        )

    def _end(self) -> TurnEnd | None:
        """Return how the turn ends, if it ends now."""
        execution = self.execution
        if execution.outcome is not None:
            return execution.outcome
        if self._running or self._ended or self._leaving or self._asked or self._timer is not None:
            return None
        for operation in execution.todo.values():
            if self._short(operation):
                return None
        # What begins in this very report may end at once, in the same entry of the log: the owner
        # makes the next turn then, as for everything that it ends.
        for change in execution.changes[self._ahead :]:
            if not self._leaves_waiting(change):
                return None
        return TurnEnd(TurnOutcome.WAITING)

    def _leaves_waiting(self, change: Change) -> bool:
        if isinstance(change, StepTried):
            return change.retry_ms - self._terms.now_ms() > self._terms.short_retry_ms
        return isinstance(change, _WAITS)

    # -- steps ---------------------------------------------------------------------------------

    def _short(self, operation: StepRun[Any]) -> bool:
        if not operation.due_ms:
            return True
        return operation.due_ms - self._terms.now_ms() <= self._terms.short_retry_ms

    def _start_steps(self) -> None:
        """Start the steps that may run now; look again when the next one may, if that is soon."""
        todo = self.execution.todo
        now_ms = self._terms.now_ms()
        soonest = 0
        for key, operation in list(todo.items()):
            if operation.due_ms > now_ms:
                if self._short(operation):
                    soonest = min(soonest or operation.due_ms, operation.due_ms)
                continue
            del todo[key]
            task = begin(self._attempt(operation), name=f"step {key}")
            if task is not None:
                self._running[operation] = task
        if soonest and self._timer is None:
            delay_s = (soonest - now_ms) / 1_000
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._due)

    def _due(self) -> None:
        self._timer = None
        self._stir()

    async def _attempt(self, operation: StepRun[Any]) -> None:
        execution, now_ms = self.execution, self._terms.now_ms
        generation = f"~{execution.generation}" if execution.generation else ""
        info = StepInfo(
            name=operation.name,
            key=operation.key,
            run=execution.run,
            attempt=operation.attempts + 1,
            idempotency=f"{execution.run}/{operation.key}{generation}",
            details=operation.details,
            on_heartbeat=self._beat,
            on_details=functools.partial(self._beats.tell, operation),
            on_log=execution.on_log,
        )
        started_ms = operation.started_ms = now_ms()
        operation.launched = info.attempt
        operation.first_ms = operation.first_ms or started_ms
        value: Any = None
        error: BaseException | None = None
        try:
            value = await run_step(operation.step, operation.args, operation.kwargs, info)
        except asyncio.CancelledError as raised:
            if operation.done or operation.stopped:
                raise
            error = StepFailure("cancelled", str(raised) or "the step cancelled itself")
        except (Exception, SystemExit) as raised:
            error = raised
        self._ended.append(_Ended(operation, started_ms, now_ms(), value, error, info.latest))
        self._running.pop(operation, None)
        if info.latest is not info.details:
            self._beats.ended(operation)
        self._stirred = True
        if self._waiter is not None:
            self._stir()

    def _beat(self, _details: Any) -> None:
        self._desk.beat()

    async def _collect(self) -> None:
        """Turn attempts that have ended into changes, and go on with what they returned, if all
        that is to be reported is that: what the function does then goes in the same report."""
        changes = self.execution.changes
        alone = not changes
        ran: list[tuple[StepRun[Any], int]] = []
        while self._ended:
            ended, self._ended = self._ended, []
            for attempt in ended:
                if attempt.operation.done:
                    continue
                change = self._failed(attempt) if attempt.error else self._succeeded(attempt)
                if isinstance(change, StepRan):
                    ran.append((attempt.operation, attempt.ended_ms))
                    if len(change.value) > self._desk.inline_bytes:
                        change = await self._put_elsewhere(attempt.operation, change)
                changes.append(change)
        if alone and ran and len(ran) == len(changes) and not (self._running or self._asked):
            self._ahead = len(ran)
            self.execution.go_ahead(ran)

    async def _record_beats(self) -> None:
        """Note how far the steps are that run."""
        for operation, details in self._beats.take(self._terms.now_ms()):
            if operation in self._running:
                if len(details) > self._desk.inline_bytes:
                    details = await self._desk.outgoing(details)
                raw = msgspec.Raw(details)
                head = (operation.key, operation.name, operation.digest, operation.started_ms)
                self.execution.change(StepBeat(*head, raw))

    def _succeeded(self, attempt: _Ended) -> StepRan | StepTried:
        operation = attempt.operation
        try:
            data = _codec.encode(attempt.value)
            seen = _codec.as_recorded(operation.step.signature.result, attempt.value, data)
        except _codec.CodecError as error:
            wrong = StepFailure("invalid-result", f"its result {error}", retryable=False)
            return self._failed(msgspec.structs.replace(attempt, error=wrong))
        raw = msgspec.Raw(data)
        operation.local = (raw, seen)
        return StepRan(
            operation.key,
            operation.name,
            operation.digest,
            attempt.started_ms,
            attempt.ended_ms,
            raw,
        )

    async def _put_elsewhere(self, operation: StepRun[Any], ran: StepRan) -> StepRan:
        """Return *ran* with a reference to its value, which is large."""
        assert operation.local is not None
        raw = msgspec.Raw(await self._desk.outgoing(bytes(ran.value)))
        operation.local = (raw, operation.local[1])
        return msgspec.structs.replace(ran, value=raw)

    def _failed(self, attempt: _Ended) -> StepTried:
        operation, error = attempt.operation, attempt.error
        assert error is not None
        told = error_of(error)
        retry_ms = 0
        options = operation.step.options_
        if options.retry is not None and options.effect != "at-most-once":
            policy = options.retry.policy
            decision = policy.decide(
                attempt=operation.attempts + 1,
                error_type=matched_type(policy, error, told.type),
                retryable=told.retryable,
                now_ms=attempt.ended_ms,
                first_started_ms=operation.first_ms,
                jitter=self._terms.chance(),
            )
            if isinstance(decision, RetryAt):
                retry_ms = max(decision.due_ms, 1)
        return StepTried(
            operation.key,
            operation.name,
            operation.digest,
            attempt.started_ms,
            attempt.ended_ms,
            told,
            retry_ms,
            msgspec.Raw(attempt.details),
        )

    # -- stopping ------------------------------------------------------------------------------

    def _stop_unwanted(self) -> None:
        stops, self.execution.stops = self.execution.stops, []
        for operation in stops:
            task = self._running.pop(operation, None)
            if task is not None:
                self._stop(operation, task)

    def _stop(self, operation: StepRun[Any], task: asyncio.Task[None]) -> None:
        operation.stopped = True
        task.cancel()
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def _stop_all(self) -> None:
        """Stop what runs; return once it has cleaned up, or has had its time for that."""
        while self._running:
            self._stop(*self._running.popitem())
        if not self._stopping:
            return
        _, left = await asyncio.wait(tuple(self._stopping), timeout=STOP_S)
        for task in left:
            log.warning(
                "a step goes on after it was cancelled; what it does changes nothing any more",
                extra={"run": self.execution.run, "task": task.get_name()},
            )
            _abandoned.add(task)
            task.add_done_callback(_abandoned.discard)
        self._stopping.difference_update(left)


_WAITS: Final = (
    ChildBegun, EntryDropped, LabelsSet, SignalAwaited, SleepBegun, UpdateAnswered,
)  # fmt: skip
"""Changes that leave the function waiting for its owner."""
