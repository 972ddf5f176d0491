"""Runs attempts: in shared runner tasks, in threads, with timeouts and cancellation.

A *runner* is an asyncio task that takes waiting attempts one after the other. As long as handlers
return without suspending it goes on, so a burst of short steps costs one task in all. When a
handler suspends, the runner is its own from then on (so `asyncio.timeout`, `anyio` and friends
see one stable current task from the first line), and another runner takes over the queue.

Knows nothing of the broker: see `headrace.worker.ports`.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from headrace.eager import resumed
from headrace.errors import HeadraceError
from headrace.messages import ResultExtra, ResultStatus, StepError, StepResult, Task
from headrace.telemetry import Clock, SystemClock, attempt_fields, log_about
from headrace.worker.core import Admission, Assignment, Assignments, Origin, Stop
from headrace.worker.deferred import NotWanted
from headrace.worker.driving import Work
from headrace.worker.handlers import EMPTY_MAP, Context, HandlerError, Registry, encode_details
from headrace.worker.handlers import encode_output as encode_value
from headrace.worker.hidden import HiddenValues
from headrace.worker.masks import Masker
from headrace.worker.outcomes import (
    HandBack,
    NotGranted,
    TurnOver,
    failure,
    is_surprise,
    stopped,
    traceback_lines,
    unstarted,
)
from headrace.worker.payloads import Payloads
from headrace.worker.ports import (
    ArtifactStore,
    ClaimDesk,
    LogSink,
    NoLogs,
    NoValues,
    ResultSink,
    ValueSource,
)
from headrace.worker.runners import Runners
from headrace.worker.starting import Starter
from headrace.worker.steplog import LogLimits, Spool, StepLog
from headrace.worker.traces import Attempts
from headrace.worker.turns import Turns
from headrace.worker.workspaces import Workspaces

log = logging.getLogger(__name__)

BURST_MAX: Final = 200
"""Attempts that a runner takes before it lets the event loop breathe."""
_EMPTY: Final = msgspec.Raw(EMPTY_MAP)


class Executor:
    """Runs what is submitted, `slots` at a time; every attempt ends in `results.deliver`.

    All methods belong to one event loop. The caller awaits `close` at the end.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        results: ResultSink,
        assignments: Assignments,
        workspaces: Workspaces,
        payloads: Payloads,
        claims: ClaimDesk | None = None,
        logs: LogSink | None = None,
        log_limits: LogLimits | None = None,
        secrets: ValueSource | None = None,
        variables: ValueSource | None = None,
        artifacts: ArtifactStore | None = None,
        clock: Clock | None = None,
        observe: Callable[[StepResult], None] | None = None,
        turns: Turns | None = None,
        traces: Attempts | None = None,
        at_once: bool = False,
        on_freed: Callable[[], None] = lambda: None,
    ) -> None:
        """*at_once*: `submit` runs what it is given, up to where it suspends, before it returns.

        *on_freed* is called when an attempt has ended that leaves nothing to report, a turn of a
        workflow function: a slot is free.
        """
        self.assignments = assignments
        self.artifacts = artifacts
        self.turns = turns
        self._traces = traces or Attempts("")
        self.traceparent = self._traces.traceparent
        self._registry = registry
        self._deliver_to = results.deliver
        self._workspaces = workspaces
        self._payloads = payloads
        self._clock: Clock = clock or SystemClock()
        self._now_ms = self._clock.now_ms
        self._spool = Spool(logs or NoLogs(), self._clock, log_limits or LogLimits())
        self._hidden = HiddenValues(secrets or NoValues())
        self._observe = observe
        self._on_freed = on_freed
        self._starter = Starter(
            payloads=payloads,
            claims=claims,
            secrets=secrets or NoValues(),
            variables=variables or NoValues(),
            now_ms=self._now_ms,
        )
        self._runners = Runners(assignments, self._take, at_once=at_once)
        self._ended_ms = 0
        """When the last attempt of a burst has ended; 0: not known."""
        self._abandoned = False

    # -- from outside --------------------------------------------------------------------------

    def submit(self, origin: Origin, tasks: Iterable[Task]) -> None:
        """Take *tasks* that are not held yet and start them as slots allow.

        What does not fit is handed back. The caller keeps unconfirmed results, so it is the
        caller who leaves out tasks whose result only waits for its confirmation.
        """
        if self._spool.loop is None:
            self._spool.loop = asyncio.get_running_loop()
        now_ms = self._now_ms()
        admit = self.assignments.admit
        for task in tasks:
            verdict = admit(task, origin, now_ms)
            if verdict == Admission.QUEUED:
                continue
            if verdict == Admission.FOLLOWS:
                current = self.assignments.get(task.run, task.step)
                assert current is not None
                self.stop(current, Stop("superseded", "a newer attempt was dispatched"))
            elif verdict == Admission.FULL:
                self._deliver_unstarted(
                    Assignment(task, origin, now_ms, task.token), ResultStatus.RETURNED
                )
        self._runners.wake()

    def cancel(self, run: str, step: int, attempt: int, reason: str) -> bool:
        """Stop an attempt; CANCELLED is delivered when it is dead. False: it is not held."""
        found = self.assignments.get(run, step)
        if found is None:
            return False
        follower = found.follower
        if follower is not None and follower.task.attempt == attempt:
            found.follower = None
            self._deliver_unstarted(follower, ResultStatus.CANCELLED, reason)
            return True
        if found.task.attempt != attempt:
            return False
        if self.assignments.withdraw(found):
            self._deliver_unstarted(found, ResultStatus.CANCELLED, reason)
            self._runners.wake()
        else:
            self.stop(found, Stop("cancel", reason))
        return True

    def stop(self, assignment: Assignment, stop: Stop) -> None:
        """Interrupt a running attempt; the first reason counts."""
        if assignment.stop is not None or not assignment.running:
            return
        assignment.stop = stop
        work = cast("Work | None", assignment.work)
        if work is not None:
            work.runner.cancel()

    def hand_back(self) -> int:
        """Return everything that has not been started to its owners; how many that was."""
        waiting = self.assignments.withdraw_all()
        for assignment in waiting:
            self._deliver_unstarted(assignment, ResultStatus.RETURNED)
        return len(waiting)

    def hand_back_overdue(self, limit_ms: int) -> int:
        """Return what has waited over *limit_ms* behind long steps; how many that was."""
        overdue = self.assignments.overdue(now_ms=self._now_ms(), limit_ms=limit_ms)
        for assignment in overdue:
            self._deliver_unstarted(assignment, ResultStatus.RETURNED)
        return len(overdue)

    async def wait_idle(self) -> None:
        """Return when nothing is queued or running; bound it with a timeout."""
        await self._runners.idle.wait()

    async def close(self, *, kill_s: float) -> int:
        """Stop everything and wait up to *kill_s* for it to die; return how many did not."""
        self.hand_back()
        for assignment in list(self.assignments):
            self.stop(assignment, Stop("shutdown", "the worker stops"))
        runners = self._runners
        if runners.tasks:
            await asyncio.wait(runners.tasks, timeout=kill_s)
        left = len(self.assignments)
        self._abandoned = self._starter.abandoned = True
        runners.close()
        if runners.tasks:
            await asyncio.wait(runners.tasks, timeout=1)
        self._spool.flush()
        await asyncio.to_thread(self._workspaces.close)
        return left

    # -- for contexts --------------------------------------------------------------------------

    def open_log(self, assignment: Assignment) -> StepLog:
        """Return a new log for an attempt, with the worker's secrets masked."""
        return self._spool.open(assignment.origin, assignment.task, self._hidden.masker().copy())

    def open_workspace(self, task: Task) -> tuple[Path, bool]:
        """Return the job's folder, or a fresh one to be deleted."""
        if task.options is not None and task.options.workspace:
            return self._workspaces.for_job(task.options.workspace), False
        return self._workspaces.for_step(), True

    def beat(self, assignment: Assignment, details: Any) -> None:
        """Note a sign of life of an attempt; two plain writes, so any thread may do it.

        Raises `HandlerError` for details that are too large, or no plain data.
        """
        if details is not None:
            assignment.details = encode_details(self._hidden.masker().value(details))
        assignment.beat_ms = self._now_ms()

    # -- runners -------------------------------------------------------------------------------

    async def _take(self) -> None:
        """Take attempts until the queue is empty, the slots are full, or one suspends."""
        inline_bytes = self._payloads.inline_bytes
        assignments = self.assignments
        self._ended_ms = 0
        for taken in itertools.count(1):
            if taken % BURST_MAX == 0:
                await asyncio.sleep(0)
                self._ended_ms = 0
            assignment = assignments.next()
            if assignment is None:
                break
            log_about(functools.partial(self._about, assignment))
            context = Context(assignment, self)
            # One begins when the one before it has ended.
            assignment.started_ms = self._ended_ms or self._now_ms()
            handler = self._registry.lookup(assignment.task.uses)
            if handler is not None:
                context.version = handler.version
            rest: Coroutine[Any, Any, None]
            try:
                if handler is None and self._registry.was_removed(assignment.task.uses):
                    # The owner does not know yet; another worker may have it.
                    raise HandBack
                work = self._starter.begin(assignment, handler, context)
                waiting = work.send(None)
            except StopIteration as end:
                output = self._encoded(assignment, context, end.value)
                if output is None:
                    continue
                if len(output) <= inline_bytes and context.temporary_folder is None:
                    extra = context.result_extra() if context.noted or context.version else None
                    self._end(assignment, context, ResultStatus.COMPLETED, output, None, extra)
                    continue
                rest = self._store(assignment, context, output)
            except (Exception, SystemExit, asyncio.CancelledError) as error:
                if context.temporary_folder is None and not getattr(error, "output", None):
                    self._end_badly(assignment, context, error)
                    continue
                rest = self._fail(assignment, context, error)
            else:
                rest = self._finish(assignment, context, work, waiting)
            await self._own(assignment, rest)
            return
        self._runners.taker = None

    def _about(self, assignment: Assignment) -> dict[str, str | int]:
        task = assignment.task
        # What it has started may live longer, and is not about it any more.
        held = self.assignments.get(task.run, task.step) is assignment
        trace = task.options.traceparent if task.options is not None else ""
        return attempt_fields(task.run, task.path, task.attempt, trace) if held else {}

    async def _own(self, assignment: Assignment, rest: Coroutine[Any, Any, None]) -> None:
        """Make this runner the attempt's own, let another take the queue, and go on with *rest*."""
        runner = asyncio.current_task()
        assert runner is not None
        assignments = self.assignments
        assignments.occupy(assignment)
        assignment.work = work = Work(runner)
        self._runners.leave(runner)
        self._runners.wake()
        work.arm(assignment, now_ms=self._now_ms, stop=self.stop)
        try:
            await rest
        finally:
            work.disarm()

    async def _finish(
        self,
        assignment: Assignment,
        context: Context,
        work: Coroutine[Any, Any, Any],
        waiting: Any,
    ) -> None:
        try:
            value = await resumed(work, waiting)
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            if self._abandoned:
                raise
            await self._fail(assignment, context, error)
            return
        output = self._encoded(assignment, context, value)
        if output is not None:
            await self._store(assignment, context, output)

    async def _fail(self, assignment: Assignment, context: Context, error: BaseException) -> None:
        """End an attempt that raised, with what it produced all the same."""
        output = EMPTY_MAP
        try:
            await self._tidy(context)
            if isinstance(error, HandlerError) and error.output:
                output = self._masker_of(context).packed(encode_value(error.output))
                output = await self._payloads.outgoing(assignment.task.run, output)
        except (HandlerError, HeadraceError) as trouble:
            # The failure itself is what matters; its by-products are not worth losing it.
            output = EMPTY_MAP
            context.log(f"outputs of the failed step were not kept: {trouble}", stream="system")
        except asyncio.CancelledError as interrupted:
            if self._abandoned:
                raise
            error = interrupted
        self._end_badly(assignment, context, error, output)

    async def _store(self, assignment: Assignment, context: Context, output: bytes) -> None:
        """Complete the attempt, with a large output put where it belongs first."""
        try:
            await self._tidy(context)
            output = await self._payloads.outgoing(assignment.task.run, output)
        except (Exception, asyncio.CancelledError) as error:
            if self._abandoned:
                raise
            self._end_badly(assignment, context, error)
            return
        stop = assignment.stop
        if stop is not None and stop.kind in ("timeout", "superseded"):
            self._end_badly(assignment, context, asyncio.CancelledError())
            return
        extra = context.result_extra()
        self._end(assignment, context, ResultStatus.COMPLETED, output, None, extra)

    # -- ends ----------------------------------------------------------------------------------

    def _encoded(self, assignment: Assignment, context: Context, value: Any) -> bytes | None:
        """Return the masked output; None when the attempt has been ended as failed instead."""
        try:
            if value is None or (type(value) is msgspec.Raw and bytes(value) == EMPTY_MAP):
                return EMPTY_MAP
            output = encode_value(value)
            return output if output is EMPTY_MAP else self._masker_of(context).packed(output)
        except HandlerError as error:
            self._end_badly(assignment, context, error)
            return None

    def _masker_of(self, context: Context) -> Masker:
        """Return what the attempt must not show: a step may read a secret from anywhere."""
        opened = context.opened_log
        return self._hidden.masker() if opened is None else opened.masker

    def _end_badly(
        self,
        assignment: Assignment,
        context: Context,
        error: BaseException,
        output: bytes = EMPTY_MAP,
    ) -> None:
        """End an attempt that raised: stopped, handed back, not granted, or failed."""
        stop, options = assignment.stop, assignment.task.options
        once = options is not None and options.at_most_once
        over = isinstance(error, NotGranted | TurnOver)
        if over or (stop is not None and stop.kind == "superseded"):
            self._forget(assignment, context)
        elif stop is not None and stop.kind == "shutdown" and once:
            # Nobody knows how far it came: the owner's rule for a lost worker decides.
            self._forget(assignment, context)
        elif isinstance(error, NotWanted):
            self._end(assignment, context, ResultStatus.SKIPPED, EMPTY_MAP, None, None)
        elif isinstance(error, HandBack):
            self._end(assignment, context, ResultStatus.RETURNED, EMPTY_MAP, None, None)
            self.assignments.forget((assignment,))
        elif stop is not None and isinstance(error, asyncio.CancelledError):
            status, why = stopped(stop)
            self._end(assignment, context, status, EMPTY_MAP, why, context.result_extra())
        else:
            why = failure(error, self._masker_of(context))
            if is_surprise(error):
                for line in traceback_lines(error):
                    context.log(line, stream="system")
            extra = context.result_extra()
            self._end(assignment, context, ResultStatus.FAILED, output, why, extra)

    def _end(
        self,
        assignment: Assignment,
        context: Context,
        status: int,
        output: bytes,
        error: StepError | None,
        extra: ResultExtra | None,
    ) -> None:
        opened = context.opened_log
        if opened is not None:
            # Before the result: who sees the end of the step finds its lines.
            opened.flush()
        if extra is not None and (masker := self._masker_of(context)):
            extra = msgspec.convert(masker.value(msgspec.to_builtins(extra)), ResultExtra)
        task = assignment.task
        ended_ms = self._ended_ms = self._now_ms()
        result = StepResult(
            task.run,
            task.step,
            task.attempt,
            assignment.token,
            status,
            _EMPTY if output is EMPTY_MAP else msgspec.Raw(output),
            assignment.started_ms,
            ended_ms,
            error,
            extra,
        )
        self.assignments.release(assignment)
        self._deliver_to(assignment.origin, result)
        if self._traces.recorded:
            self._traces.ended(assignment.task, result)
        if self._observe is not None:
            self._observe(result)

    def _forget(self, assignment: Assignment, context: Context) -> None:
        if context.opened_log is not None:
            context.opened_log.flush()
        self.assignments.release(assignment)
        self._on_freed()

    def _deliver_unstarted(self, assignment: Assignment, status: int, reason: str = "") -> None:
        result = unstarted(assignment, status, reason, self._now_ms())
        if status == ResultStatus.RETURNED:
            self.assignments.forget((assignment,))
        self._deliver_to(assignment.origin, result)
        if self._observe is not None:
            self._observe(result)

    async def _tidy(self, context: Context) -> None:
        folder = context.temporary_folder
        if folder is not None:
            await asyncio.shield(asyncio.to_thread(self._workspaces.discard, folder))
