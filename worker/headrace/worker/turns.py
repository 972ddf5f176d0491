"""Turns of workflow functions on this worker: their reports, and the functions that wait.

A function whose turn has ended in waiting is kept, within bounds (`headrace.worker.parked`), so
that its next turn need not replay it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, Final

import msgspec

from headrace.errors import HeadraceError, LimitExceeded
from headrace.messages import (
    UNREADABLE,
    Change,
    Entry,
    Query,
    QueryAnswer,
    Turn,
    TurnEnd,
    TurnOutcome,
    TurnReply,
    TurnReport,
    TurnWake,
)
from headrace.payloads import BLOB_KEY
from headrace.sdk import Execution, Left, Terms, TurnRun, Workflow, new_execution
from headrace.telemetry import Clock, SystemClock
from headrace.worker.beginnings import Beginning, Beginnings
from headrace.worker.core import Assignment
from headrace.worker.handlers import Context, HandlerError
from headrace.worker.outcomes import HandBack, TurnOver
from headrace.worker.parked import FUNCTION_BYTES, Parked, ParkedFunctions, bytes_of, value_bytes
from headrace.worker.payloads import Payloads
from headrace.worker.ports import TurnDesk

log = logging.getLogger(__name__)

VERSION: Final = 1
BACKOFF_MIN_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0
RETRY_AFTER_MAX_S: Final = 60.0
PAGES_MAX: Final = 10_000
_REFERENCE_MIN: Final = len(BLOB_KEY) + 1
"""Bytes of the smallest value in which there may be a reference to a large one."""
_DECODER: Final = msgspec.msgpack.Decoder(Turn)


class Turns:
    """What an executor needs to run turns. Belongs to one event loop."""

    def __init__(
        self,
        desk: TurnDesk,
        payloads: Payloads,
        *,
        worker: str,
        incarnation: str,
        clock: Clock | None = None,
        short_retry_ms: int | None = None,
        parked: ParkedFunctions | None = None,
    ) -> None:
        """*short_retry_ms*: so long a turn waits for the next attempt of a step. *parked*: where
        functions that wait are kept."""
        self._desk, self._payloads = desk, payloads
        self._worker, self._incarnation = worker, incarnation
        self.parked = ParkedFunctions() if parked is None else parked
        self._running: dict[tuple[str, int], TurnRun] = {}
        now_ms = (clock or SystemClock()).now_ms
        self._terms = Terms(now_ms=now_ms)
        if short_retry_ms is not None:
            self._terms = self._terms._replace(short_retry_ms=short_retry_ms)
        self.beginnings = Beginnings(self._terms, payloads.inline_bytes)
        self._draining = False

    @property
    def draining(self) -> bool:
        """No further turns are taken."""
        return self._draining

    # -- from outside --------------------------------------------------------------------------

    def wake(self, wake: TurnWake) -> None:
        """The owner has news for a turn."""
        run = self._running.get((wake.run, wake.step))
        if run is not None:
            run.wake()

    def drain(self) -> None:
        """Let all turns go as soon as their steps have ended; take no further ones."""
        self._draining = True
        for run in self._running.values():
            run.leave()

    def _leave_if_draining(self, running: TurnRun) -> None:
        if self._draining:
            running.leave()

    # -- a turn --------------------------------------------------------------------------------

    async def run(
        self,
        workflow: Workflow[Any, Any],
        context: Context,
        assignment: Assignment,
        inputs: msgspec.Raw,
    ) -> None:
        """Run one turn to its end. Always raises: `TurnOver`, `HandBack`, `HandlerError`."""
        if self.draining:
            raise HandBack
        task = assignment.task
        try:
            turn = _DECODER.decode(inputs)
        except UNREADABLE as error:
            raise HandlerError("invalid-input", f"not a turn: {error}", False) from error
        reports = _Reports(self, context, assignment)
        begun = await self._begun(workflow, context, reports, turn)
        if begun is not None:
            running, work = begun.running, begun.run()
        else:
            execution = await self._execution(workflow, context, reports, turn)
            if execution is None:
                raise TurnOver
            running = TurnRun(workflow, execution, reports, self._terms)
            work = running.run(turn)
        key = (task.run, task.step)
        self._running[key] = running
        self._leave_if_draining(running)
        parked = False
        try:
            end = await work
            parked = end is not None and end.outcome == TurnOutcome.WAITING
            if parked:
                self._park(workflow, task.run, running, reports.bytes)
        except Left:
            raise HandBack from None
        except asyncio.CancelledError:
            stop = assignment.stop
            if stop is not None and stop.kind == "shutdown":
                # What it did is recorded; another worker goes on from there.
                raise HandBack from None
            raise
        finally:
            if self._running.get(key) is running:
                del self._running[key]
            if not parked:
                running.execution.close()
        raise TurnOver

    async def _begun(
        self, workflow: Workflow[Any, Any], context: Context, reports: _Reports, turn: Turn
    ) -> Beginning | None:
        """Return the function if it began before its run did; it has an owner now."""
        begun = self.beginnings.take(context.run)
        if begun is None:
            return None
        if begun.workflow is not workflow or turn.number or turn.generation or context.attempt > 1:
            await begun.stop()
            return None
        reports.bytes += value_bytes(len(turn.input))
        begun.bind(reports, _writer(context))
        begun.running.ask(turn.queries)
        return begun

    async def _execution(
        self, workflow: Workflow[Any, Any], context: Context, reports: _Reports, turn: Turn
    ) -> Execution | None:
        """Return the function, fed with all that has happened; None when the turn is refused."""
        run = context.run
        parked = self.parked.take(run)

        # Of code that was loaded anew it has the old one: it is replayed with the new.
        same = parked is not None and parked.workflow is workflow
        if parked is not None and same and parked.execution.generation == turn.generation:
            entries = turn.entries
            reports.bytes = parked.bytes
            if parked.known < turn.since or _incomplete(entries, parked.known, turn.number):
                fetched = await reports.fetch(parked.known, turn)
                if fetched is None:
                    parked.execution.close()
                    return None
                entries = fetched
            else:
                reports.bytes += bytes_of(entries)
            execution = parked.execution
            execution.on_log = _writer(context)
            execution.skip.update(turn.skip)
            execution.feed(parked.backlog)
            execution.feed([entry for entry in entries if entry.number > parked.known])
            return execution
        if parked is not None:
            parked.execution.close()
        reports.bytes += value_bytes(len(turn.input))
        if turn.since or _incomplete(turn.entries, 0, turn.number):
            fetched = await reports.fetch(0, turn)
            if fetched is None:
                return None
            turn = msgspec.structs.replace(turn, entries=fetched, since=0)
        else:
            reports.bytes += bytes_of(turn.entries)
        return new_execution(workflow, run, turn, on_log=_writer(context))

    def _park(self, workflow: Workflow[Any, Any], run: str, running: TurnRun, size: int) -> None:
        backlog = running.backlog
        known = backlog[-1].number if backlog else running.execution.seen
        # What it writes goes to its attempt's log; with that, the attempt would stay, too.
        running.execution.on_log = None
        self.parked.keep(run, Parked(workflow, running.execution, backlog, known, size))


def _writer(context: Context) -> Callable[[str, str], None]:
    """Return what writes (stream, text) to an attempt's log."""

    def write(stream: str, text: str) -> None:
        context.log(text, stream=stream)

    return write


def _incomplete(entries: list[Entry], known: int, number: int) -> bool:
    """Tell whether changes up to *number* are missing behind *known*."""
    newest = entries[-1].number if entries else known
    return newest < number


class _Reports:
    """A turn's `Desk`: one report at a time, sent until it is answered."""

    def __init__(self, turns: Turns, context: Context, assignment: Assignment) -> None:
        self._turns, self._context, self._assignment = turns, context, assignment
        self._sequence = 0
        self._queries: list[Query] = []
        """That came while older entries were fetched."""
        self.bytes = FUNCTION_BYTES
        """That the function takes, about, with all that it was sent."""

    async def report(
        self,
        *,
        seen: int,
        changes: list[Change],
        end: TurnEnd | None,
        answers: list[QueryAnswer],
        ahead: int = 0,
    ) -> TurnReply:
        """See `Desk.report`."""
        opened = self._context.opened_log
        if end is not None and opened is not None:
            # Before the run's end: who sees that finds what was emitted.
            opened.flush()
        reply = await self._exchange(seen, changes, end, answers, ahead)
        if reply.refused or reply.overtaken or not _incomplete(reply.entries, seen, reply.number):
            return await self._filled(reply)
        first = reply
        rest = await self._pages(reply.entries, reply.number)
        if rest is None:
            return TurnReply(refused="the turn is over")
        queries, self._queries = [*first.queries, *self._queries], []
        return await self._filled(TurnReply(entries=rest, number=first.number, queries=queries))

    async def fetch(self, seen: int, turn: Turn) -> list[Entry] | None:
        """Return all entries behind *seen*; None when the turn is refused."""
        reply = await self._exchange(seen, [], None, [])
        if reply.refused:
            return None
        turn.queries.extend(reply.queries)
        entries = await self._pages(reply.entries, reply.number)
        turn.queries.extend(self._queries)
        self._queries = []
        return None if entries is None else (await self._filled(TurnReply(entries=entries))).entries

    async def _pages(self, entries: list[Entry], number: int) -> list[Entry] | None:
        """Return *entries* with what is missing behind them, up to change *number*."""
        for _ in range(PAGES_MAX):
            if not entries or entries[-1].number >= number:
                return entries
            reply = await self._exchange(entries[-1].number, [], None, [])
            if reply.refused:
                return None
            self._queries += reply.queries
            if not reply.entries:
                return entries
            entries, number = entries + reply.entries, reply.number
        raise HandlerError("journal-too-large", f"the journal has over {PAGES_MAX} pages", False)

    async def _exchange(
        self,
        seen: int,
        changes: list[Change],
        end: TurnEnd | None,
        answers: list[QueryAnswer],
        ahead: int = 0,
    ) -> TurnReply:
        self._sequence += 1
        assignment, turns = self._assignment, self._turns
        task = assignment.task
        pause_s = BACKOFF_MIN_S
        while True:
            report = TurnReport(
                VERSION,
                turns._worker,
                turns._incarnation,
                task.run,
                task.step,
                task.attempt,
                # A new owner may have dispatched the same turn again, under a new token.
                assignment.token,
                self._sequence,
                seen,
                changes,
                end,
                answers,
                ahead,
            )
            try:
                reply = await turns._desk.turn(assignment.origin, report)
            except LimitExceeded as error:
                text = f"what the workflow did at once is too large: {error}"
                raise HandlerError("report-too-large", text, retryable=False) from error
            except HeadraceError as error:
                log.info("report not taken yet", extra={"run": task.run, "error": str(error)})
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(pause_s * 2, BACKOFF_MAX_S)
                continue
            if reply.retry_after_ms <= 0:
                return reply
            await asyncio.sleep(min(reply.retry_after_ms / 1_000, RETRY_AFTER_MAX_S))

    async def _filled(self, reply: TurnReply) -> TurnReply:
        """Put values in the place of references to large ones."""
        incoming = None
        for entry in reply.entries:
            if len(entry.value) < _REFERENCE_MIN and len(entry.details) < _REFERENCE_MIN:
                continue
            for name in ("value", "details"):
                raw: msgspec.Raw = getattr(entry, name)
                if BLOB_KEY in bytes(raw):
                    incoming = incoming or self._turns._payloads.incoming(self._context.run)
                    value = await incoming.decoded(raw)
                    setattr(entry, name, msgspec.Raw(msgspec.msgpack.encode(value)))
        self.bytes += bytes_of(reply.entries)
        return reply

    async def outgoing(self, data: bytes) -> bytes:
        """See `Desk.outgoing`."""
        return await self._turns._payloads.outgoing_value(self._context.run, data)

    @property
    def inline_bytes(self) -> int:
        """See `Desk.inline_bytes`."""
        return self._turns._payloads.inline_bytes

    def beat(self) -> None:
        """See `Desk.beat`."""
        self._context.heartbeat()
