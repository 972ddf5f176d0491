"""Answers about runs, made from state that is in the log; and those who wait for a run's end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from headrace.coordinator.core import Facts, Machine, Refusal, Run, explain
from headrace.coordinator.core import status as states
from headrace.coordinator.core.past import asks_past, past_view
from headrace.coordinator.core.views import (
    HistoryParts,
    Later,
    Waits,
    history_entries,
    run_view,
)
from headrace.coordinator.runtime.archiver import Archiver
from headrace.coordinator.runtime.inbox import PendingBatch, reply_of
from headrace.coordinator.runtime.ports import Dispatch
from headrace.errors import HeadraceError
from headrace.events import decode_chunk
from headrace.messages import ClientReply, GetEvidence, GetHistory, GetRun

WAIT_MS_MAX = 60_000
LOOK_MS = 200
"""So often it is looked for who has waited long enough: thousands may wait, at each tick."""
RENDERED = (Later, HistoryParts, Waits)
"""Results that are made once the tick is in the log."""
EndView = tuple[str, PendingBatch, int, ClientReply]
"""Run key, and the answer to one request of a batch."""


class Answers:
    """One owner's. Everything here is called right after an append, or when there was none."""

    def __init__(self, shard: int, dispatch: Dispatch, archiver: Archiver) -> None:
        self._shard, self._dispatch, self._archiver = shard, dispatch, archiver
        self._waiters: dict[str, list[tuple[PendingBatch, int, int]]] = {}
        self._looked_ms = 0
        self._look_ms = 0
        """Nobody has waited long enough before that."""

    @property
    def waiters(self) -> int:
        """How many runs somebody waits for."""
        return len(self._waiters)

    @property
    def waiting(self) -> bool:
        """Whether anybody waits for the end of a run."""
        return bool(self._waiters)

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
        self._waiters.setdefault(run.key, []).append((batch, index, until_ms))
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
            batch.answer(index, self.view(run, machine, steps=value.steps))

    def view(self, run: Run, machine: Machine | None = None, *, steps: bool) -> ClientReply:
        """Return *run* as it is now; with *steps* and *machine*, why it rests, too."""
        facts = self._dispatch.facts() if steps else Facts()
        view = run_view(run, steps=steps, shard=self._shard, holders=facts.holders)
        at_rest = not run.active and not states.is_final(run.state)
        if steps and machine is not None and at_rest and not view.reason:
            # Nothing of it is with a worker: somebody who looks at it wants to know why.
            view.reason = explain(machine.state, run, facts).summary
        return reply_of(view)

    def _history(self, batch: PendingBatch, index: int, request: GetHistory, run: Run) -> None:
        def answer(chunks: Sequence[bytes]) -> None:
            entries = history_entries(run, chunks, after=request.after, limit=request.limit)
            batch.answer(index, reply_of(entries))

        self._with_chunks(batch, index, run, request.after, answer)

    def _evidence(self, batch: PendingBatch, index: int, run: Run) -> None:
        programs = list(run.programs())

        def written(found: bytes | HeadraceError) -> None:
            text = Refusal.of(found) if isinstance(found, HeadraceError) else found
            batch.answer(index, reply_of(text))

        def answer(chunks: Sequence[bytes]) -> None:
            # In a thread: a run of many events is folded again from its beginning.
            self._archiver.write_evidence(run.key, programs, chunks, written)

        self._with_chunks(batch, index, run, 0, answer)

    def _past(self, batch: PendingBatch, index: int, request: GetRun, run: Run) -> None:
        def answer(chunks: Sequence[bytes]) -> None:
            try:
                view = past_view(run.key, run.programs(), chunks, request, shard=self._shard)
            except HeadraceError as error:
                batch.answer(index, reply_of(Refusal.of(error)))
            else:
                batch.answer(index, reply_of(view))

        self._with_chunks(batch, index, run, 0, answer)

    def _with_chunks(
        self,
        batch: PendingBatch,
        index: int,
        run: Run,
        after: int,
        answer: Callable[[Sequence[bytes]], None],
    ) -> None:
        """Call *answer* with the run's history behind event *after*, older segments included."""
        chunks, first = list(run.history), run.history_first
        if first <= after + 1:
            answer(chunks)
            return

        def older(segments: Sequence[bytes]) -> None:
            # Segments may reach into what the state holds as well, or be newer than that.
            before = [data for data in segments if decode_chunk(data).first < first]
            answer([*before, *chunks])

        def failed(error: HeadraceError) -> None:
            batch.answer(index, reply_of(Refusal.of(error)))

        self._archiver.read_segments(run.key, older, failed)

    def views(self, ended: Sequence[Run]) -> list[EndView]:
        """Return what those are to be told who wait for the end of these runs.

        Made when a tick is sealed, for `ended`: when it is in the log, the state may be ahead.
        """
        return [
            (run.key, batch, index, self.view(run, steps=_with_steps(batch, index)))
            for run in ended
            for batch, index, _ in self._waiters.get(run.key, ())
        ]

    def ended(self, views: Sequence[EndView]) -> None:
        """The ends of these runs are in the log: answer those who waited for them."""
        for key, batch, index, reply in views:
            self._waiters.pop(key, None)
            batch.answer(index, reply)

    def due(self, now_ms: int) -> bool:
        """Tell whether to look who has waited long enough (`time_out`)."""
        if not self._waiters or now_ms < self._look_ms:
            return False
        return not 0 <= now_ms - self._looked_ms < LOOK_MS

    def begin(self) -> None:
        """The state is another one: runs that somebody waits for may have ended, or never begun."""
        self._look_ms = 0

    def time_out(self, machine: Machine, now_ms: int) -> None:
        """Answer those who have waited long enough; *machine* holds what is logged."""
        self._looked_ms = now_ms
        self._look_ms = now_ms + WAIT_MS_MAX
        for key, waiting in list(self._waiters.items()):
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
                    batch.answer(index, self.view(run, machine, steps=steps))
            if kept:
                self._waiters[key] = kept
            else:
                del self._waiters[key]

    def refuse(self, refusal: Refusal) -> None:
        """Nobody will be told here any more."""
        for waiting in self._waiters.values():
            for batch, _, _ in waiting:
                batch.refuse(refusal)
        self._waiters.clear()


def _with_steps(batch: PendingBatch, index: int) -> bool:
    request = batch.requests[index]
    return isinstance(request, GetRun) and request.steps
