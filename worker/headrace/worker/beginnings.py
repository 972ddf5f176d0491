"""Functions that begin before their run is submitted (decision 74).

Where nothing outlives the process, a run need not be known before its function is. Such a function
begins in the name of whoever starts it. If it ends without having waited for anything, it is
recorded as a whole, and no turn is ever dispatched. If it waits, it is held here, with the steps
that it has begun; its run is submitted, and its first turn goes on from where it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from headrace.eager import resumed
from headrace.messages import Change, QueryAnswer, StepRan, Turn, TurnEnd, TurnOutcome, TurnReply
from headrace.sdk import Desk, Terms, TurnRun, Workflow, new_execution
from headrace.telemetry import attempt_fields, log_about

_TAKEN: Final = TurnReply()


class Host(Protocol):
    """Whoever starts the run of a function that has begun."""

    def goes_on(self) -> bool:
        """Tell whether the function may go on without an owner."""
        ...

    def record(self, ran: list[StepRan], result: msgspec.Raw, /) -> bool:
        """Record a function that has ended as a whole; False: that cannot be done."""
        ...

    def write(self, said: deque[tuple[str, str]], /) -> None:
        """Keep what a function that is recorded has logged and emitted, (stream, text)."""
        ...


class Beginnings:
    """Of one worker. Belongs to one event loop."""

    def __init__(self, terms: Terms, inline_bytes: int) -> None:
        self._terms, self._inline_bytes = terms, inline_bytes
        self._held: dict[str, Beginning] = {}
        # Steps have nothing of the context of whoever starts their run.
        self._context = contextvars.copy_context()

    def begin(self, workflow: Workflow[Any, Any], run: str, turn: Turn, host: Host) -> bool:
        """Begin the function of *run*, and tell whether that was all, and *host* has recorded it.

        If not, the run is to be submitted; and `drop` is to be awaited when it has ended.
        """
        about = partial(attempt_fields, run, workflow.name, 1, "")
        beginning = Beginning(workflow, host, self._inline_bytes)
        # A copy: a step of this one may begin another run.
        context = self._context.copy()
        ended = context.run(beginning.go, run, turn, self._terms, about)
        if not ended:
            self._held[run] = beginning
        return ended

    def take(self, run: str) -> Beginning | None:
        """Return the function of *run* if it has begun: its turn is here."""
        return self._held.pop(run, None) if self._held else None

    async def drop(self, run: str) -> None:
        """*run* has ended: stop its function, if no turn has taken it."""
        beginning = self.take(run)
        if beginning is not None:
            await beginning.stop()


class Beginning:
    """One function that has begun; stands for its owner (`Desk`) until there is one."""

    __slots__ = (
        "_desk",
        "_host",
        "_ran",
        "_there",
        "_waiting",
        "_work",
        "_write",
        "inline_bytes",
        "running",
        "said",
        "workflow",
    )  # fmt: skip

    def __init__(self, workflow: Workflow[Any, Any], host: Host, inline_bytes: int) -> None:
        self.workflow, self._host = workflow, host
        self.inline_bytes = inline_bytes
        """See `Desk.inline_bytes`."""
        self.said: deque[tuple[str, str]] = deque()
        self._write: Callable[[str, str], None] | None = None
        self._ran: list[StepRan] = []
        """Steps that have completed, and that no owner has heard of."""
        self._desk: Desk | None = None
        self._there: asyncio.Future[None] | None = None
        self._waiting: Any = None

    def go(
        self, run: str, turn: Turn, terms: Terms, about: Callable[[], dict[str, str | int]]
    ) -> bool:
        """Take the function to where it first waits; tell whether it has ended, and is recorded."""
        log_about(about)
        execution = new_execution(self.workflow, run, turn, on_log=self._log)
        self.running = TurnRun(self.workflow, execution, self, terms)
        self._work: Coroutine[Any, Any, TurnEnd | None] = self.running.run(turn)
        try:
            self._waiting = self._work.send(None)
        except StopIteration:
            execution.close()
            if self.said:
                self._host.write(self.said)
            return True
        return False

    def bind(self, desk: Desk, write: Callable[[str, str], None]) -> None:
        """Its run has an owner, which has given out its turn."""
        self._desk, self._write = desk, write
        self._tell()
        if self._there is not None and not self._there.done():
            self._there.set_result(None)

    async def run(self) -> TurnEnd | None:
        """Go on in the current task; see `TurnRun.run`."""
        end: TurnEnd | None = await resumed(self._work, self._waiting)
        return end

    async def stop(self) -> None:
        """Stop the function and its steps; whoever is cancelled meanwhile need not wait for it."""
        await asyncio.wait((asyncio.create_task(self._interrupted(), name="stop"),))

    async def _interrupted(self) -> None:
        with contextlib.suppress(asyncio.CancelledError, StopIteration):
            waiting = self._work.throw(asyncio.CancelledError())
            await resumed(self._work, waiting)
        self.running.execution.close()

    # -- what it says --------------------------------------------------------------------------

    def _log(self, stream: str, text: str) -> None:
        """Keep what is said until there is a log for it; from any thread."""
        self.said.append((stream, text))
        if self._write is not None:
            self._tell()

    def _tell(self) -> None:
        write, said = self._write, self.said
        assert write is not None
        while said:
            try:
                write(*said.popleft())
            except IndexError:
                return

    # -- as a desk -----------------------------------------------------------------------------

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
        if self._desk is None and self._is_taken(changes, end, ahead):
            return _TAKEN
        desk = await self._owner()
        if self._ran:
            # The function knows of all of them.
            changes, ahead = [*self._ran, *changes], len(self._ran) + ahead
            self._ran = []
        return await desk.report(seen=seen, changes=changes, end=end, answers=answers, ahead=ahead)

    def _is_taken(self, changes: list[Change], end: TurnEnd | None, ahead: int) -> bool:
        """Take a report in the owner's place, if it says only that steps have completed."""
        ran = [change for change in changes if isinstance(change, StepRan)]
        if len(ran) < len(changes):
            return False
        if end is not None:
            return end.outcome == TurnOutcome.COMPLETED and self._host.record(
                [*self._ran, *ran], end.value
            )
        if ahead < len(ran) or not self._host.goes_on():
            return False
        self._ran += ran
        return True

    async def outgoing(self, data: bytes) -> bytes:
        """See `Desk.outgoing`."""
        return await (await self._owner()).outgoing(data)

    def beat(self) -> None:
        """See `Desk.beat`."""
        if self._desk is not None:
            self._desk.beat()

    async def _owner(self) -> Desk:
        if self._desk is None:
            self._there = asyncio.get_running_loop().create_future()
            await self._there
        assert self._desk is not None
        return self._desk
