"""Answers about runs, made from state that is in the log; and those who wait for a run's end.

A short answer is made and given at once. What a long one needs is copied, and it is made in pieces
behind the ticks (see `Slices`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from headrace.coordinator.archive.store import LAST_EVENT
from headrace.coordinator.core import Holder, Machine, Program, Refusal, Run, explain, summary
from headrace.coordinator.core import status as states
from headrace.coordinator.core.histories import history_entries, telling
from headrace.coordinator.core.past import asks_past, copy_of, past_view, viewing_past
from headrace.coordinator.core.pieces import PIECE, UNIT_BYTES
from headrace.coordinator.core.snapshot import encode_run
from headrace.coordinator.core.views import HistoryParts, Later, Waits, run_view, viewing
from headrace.coordinator.runtime.archiver import Archiver, unpacking
from headrace.coordinator.runtime.inbox import PendingBatch, reply_of
from headrace.coordinator.runtime.ports import Dispatch
from headrace.coordinator.runtime.slices import Slices
from headrace.errors import HeadraceError
from headrace.events import chunk_first
from headrace.messages import ClientReply, GetEvidence, GetHistory, GetRun

log = logging.getLogger(__name__)

WAIT_MS_MAX = 60_000
LOOK_MS = 200
"""So often it is looked for who has waited long enough: thousands may wait, at each tick."""
RENDERED = (Later, HistoryParts, Waits)
"""Results that are made once the tick is in the log."""
LONG_MAX: Final = 64
"""Long answers in the making; more are refused as `busy`: each has a copy of its run."""
SHORT_BYTES: Final = PIECE * UNIT_BYTES
"""Of a history that is told at once."""
BUSY = Refusal("busy", "too many long answers are being made", 500)


class LongView(NamedTuple):
    """What a long run's view is made of: the run as it was, encoded, and what goes with it."""

    key: str
    data: bytes
    programs: Sequence[Program]
    holders: Mapping[tuple[str, int], Holder]
    why: str
    """Why it rests; empty: it does not, or it says so itself."""


View = ClientReply | LongView
EndView = tuple[str, PendingBatch, int, View]
"""Run key, and the answer to one request of a batch."""


def is_long(run: Run) -> bool:
    """Tell whether a view of all steps takes more than one piece."""
    journal = run.journal
    entries = len(journal.entries) if journal is not None else 0
    return len(run.status) + entries > PIECE or run.history_bytes > SHORT_BYTES


class Answers:
    """One owner's. Everything here is called right after an append, or when there was none."""

    def __init__(
        self, shard: int, dispatch: Dispatch, archiver: Archiver, slices: Slices | None = None
    ) -> None:
        self._shard, self._dispatch, self._archiver = shard, dispatch, archiver
        self._slices = slices or Slices()
        self._making: dict[asyncio.Task[None], PendingBatch] = {}
        """Long answers, and who has asked."""
        self.waiting: dict[str, list[tuple[PendingBatch, int, int]]] = {}
        """Who waits for the end of which run (key): a request of a batch, and until when."""
        self._looked_ms = 0
        self._look_ms = 0
        """Nobody has waited long enough before that."""

    @property
    def waiters(self) -> int:
        """How many runs somebody waits for."""
        return len(self.waiting)

    def awaits(
        self, batch: PendingBatch, index: int, request: Any, value: Any, now_ms: int
    ) -> bool:
        """Tell whether request *index* of *batch* is to be answered when its run ends: by `ended`.

        Called when it comes in: a later tick may end the run before this one is in the log.
        """
        run: Run = value.run
        waits = isinstance(request, GetRun) and request.wait_ms and not asks_past(request)
        if not waits or states.is_final(run.state):
            return False
        until_ms = now_ms + min(request.wait_ms, WAIT_MS_MAX)
        self.waiting.setdefault(run.key, []).append((batch, index, until_ms))
        self._look_ms = min(self._look_ms, until_ms)
        return True

    def render(
        self,
        machine: Machine,
        batch: PendingBatch,
        index: int,
        request: Any,
        value: Any,
    ) -> None:
        """Answer request *index* of *batch*; nothing may be in *machine* that is not logged."""
        run: Run = value.run
        if isinstance(value, Waits):
            explanation = explain(machine.state, run, self._dispatch.facts())
            batch.answer(index, reply_of(explanation))
        elif isinstance(value, HistoryParts):
            if isinstance(request, GetEvidence):
                self._evidence(batch, index, run)
            else:
                assert isinstance(request, GetHistory)
                self._history(batch, index, request, run)
        elif isinstance(request, GetRun) and asks_past(request):
            self._past(batch, index, request, run)
        else:
            self.tell(batch, index, self.view(run, machine, steps=value.steps))

    def view(self, run: Run, machine: Machine | None = None, *, steps: bool) -> View:
        """Return *run* as it is now, for `tell`; with *steps* and *machine*, why it rests, too."""
        if not steps:
            return reply_of(run_view(run, steps=False, shard=self._shard))
        facts = self._dispatch.facts()
        why = ""
        if machine is not None and not run.active and not states.is_final(run.state):
            # Nothing of it is with a worker: somebody who looks at it wants to know why.
            why = summary(machine.state, run, facts)
        if is_long(run):
            return LongView(run.key, encode_run(run), run.programs(), facts.holders, why)
        view = run_view(run, steps=True, shard=self._shard, holders=facts.holders)
        view.reason = view.reason or why
        return reply_of(view)

    def tell(self, batch: PendingBatch, index: int, view: View) -> None:
        """Answer request *index* of *batch* with what `view` has returned, perhaps later."""
        if isinstance(view, LongView):
            self._make(batch, index, partial(self._long_view, view))
        else:
            batch.answer(index, view)

    async def _long_view(self, long: LongView) -> Any:
        run = copy_of(long.data, long.key, long.programs, self._shard)
        view = await self._slices.make(viewing(run, shard=self._shard, holders=long.holders))
        view.reason = view.reason or long.why
        return view

    def _history(self, batch: PendingBatch, index: int, request: GetHistory, run: Run) -> None:
        after, limit = request.after, request.limit
        if run.history_first <= after + 1 and run.history_bytes <= SHORT_BYTES:
            batch.answer(
                index, reply_of(history_entries(run, run.history, after=after, limit=limit))
            )
            return

        async def make(chunks: Sequence[bytes]) -> Any:
            return await self._slices.make(telling(run, chunks, after=after, limit=limit))

        self._make(batch, index, self._of_chunks(run, make, after, min(after + limit, LAST_EVENT)))

    def _evidence(self, batch: PendingBatch, index: int, run: Run) -> None:
        programs = run.programs()
        # In a thread: a run of many events is folded again from its beginning.
        make = partial(self._archiver.evidence, run.key, programs)
        self._make(batch, index, self._of_chunks(run, make))

    def _past(self, batch: PendingBatch, index: int, request: GetRun, run: Run) -> None:
        programs, shard = run.programs(), self._shard
        if run.history_first == 1 and run.history_bytes <= SHORT_BYTES:
            try:
                view = past_view(run.key, programs, run.history, request, shard=shard)
            except HeadraceError as error:
                batch.answer(index, reply_of(Refusal.of(error)))
            else:
                batch.answer(index, reply_of(view))
            return

        async def make(chunks: Sequence[bytes]) -> Any:
            return await self._slices.make(
                viewing_past(run.key, programs, chunks, request, shard=shard)
            )

        self._make(batch, index, self._of_chunks(run, make))

    def _of_chunks(
        self,
        run: Run,
        make: Callable[[Sequence[bytes]], Awaitable[Any]],
        after: int = 0,
        upto: int = LAST_EVENT,
    ) -> Callable[[], Awaitable[Any]]:
        """Return what makes an answer of the run's history, as it is now: of the chunks with the
        events behind number *after* up to *upto*, and perhaps some around them."""
        chunks, first = list(run.history), run.history_first

        async def read() -> Any:
            if first <= after + 1:
                return await make(chunks)
            segments = await self._archiver.segments(run.key, after=after, upto=upto)
            older = await self._slices.make(unpacking(segments))
            # Segments may reach into what the state holds as well, or be newer than that.
            before = [data for data in older if chunk_first(data) < first]
            return await make([*before, *chunks])

        return read

    def _make(self, batch: PendingBatch, index: int, make: Callable[[], Awaitable[Any]]) -> None:
        """Answer request *index* of *batch* with what *make* gives, in a task of its own."""
        if len(self._making) >= LONG_MAX:
            batch.answer(index, reply_of(BUSY))
            return

        async def answer() -> None:
            try:
                reply = reply_of(await make())
                # To copy ten megabytes once more is a piece of its own.
                await asyncio.sleep(0)
            except HeadraceError as error:
                reply = reply_of(Refusal.of(error))
            batch.answer(index, reply)

        task = asyncio.create_task(answer(), name="long-answer")
        self._making[task] = batch
        task.add_done_callback(self._made)

    def _made(self, task: asyncio.Task[None]) -> None:
        batch = self._making.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # One question that we cannot answer: the asker is told, the others go on.
            log.error("question not answered", exc_info=error, extra={"shard": self._shard})
            batch.refuse(Refusal("unavailable", f"the run cannot be shown: {error!r}"))

    def views(self, ended: Sequence[Run]) -> list[EndView]:
        """Return what those are to be told who wait for the end of these runs.

        Made when a tick is sealed, for `ended`: when it is in the log, the state may be ahead.
        """
        return [
            (run.key, batch, index, self.view(run, steps=_with_steps(batch, index)))
            for run in ended
            for batch, index, _ in self.waiting.get(run.key, ())
        ]

    def ended(self, views: Sequence[EndView]) -> None:
        """The ends of these runs are in the log: answer those who waited for them."""
        for key, batch, index, view in views:
            self.waiting.pop(key, None)
            self.tell(batch, index, view)

    def due(self, now_ms: int) -> bool:
        """Tell whether to look who has waited long enough (`time_out`)."""
        if not self.waiting or now_ms < self._look_ms:
            return False
        return not 0 <= now_ms - self._looked_ms < LOOK_MS

    def begin(self) -> None:
        """The state is another one: runs that somebody waits for may have ended, or never begun."""
        self._look_ms = 0

    def time_out(self, machine: Machine, now_ms: int) -> None:
        """Answer those who have waited long enough; *machine* holds what is logged."""
        self._looked_ms = now_ms
        self._look_ms = now_ms + WAIT_MS_MAX
        for key, waiting in list(self.waiting.items()):
            run = machine.state.runs.get(key)
            kept = []
            for batch, index, until_ms in waiting:
                if run is None:
                    gone = Refusal("not-found", f"run {key} is not open any more")
                    batch.answer(index, reply_of(gone))
                elif until_ms > now_ms and not states.is_final(run.state):
                    kept.append((batch, index, until_ms))
                    self._look_ms = min(self._look_ms, until_ms)
                else:
                    steps = _with_steps(batch, index)
                    self.tell(batch, index, self.view(run, machine, steps=steps))
            if kept:
                self.waiting[key] = kept
            else:
                del self.waiting[key]

    def refuse(self, refusal: Refusal) -> None:
        """Nobody will be told here any more."""
        for waiting in self.waiting.values():
            for batch, _, _ in waiting:
                batch.refuse(refusal)
        self.waiting.clear()
        for task, batch in self._making.items():
            task.cancel()
            batch.refuse(refusal)


def _with_steps(batch: PendingBatch, index: int) -> bool:
    request = batch.requests[index]
    return isinstance(request, GetRun) and request.steps
