"""Questions that clients ask workflow functions: in no log, and lost with their owner.

A question goes to the run's live turn with the next reply, or makes a turn due. Whoever asked
waits here, for a bounded time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from headrace.coordinator.core.commands import Refusal
from headrace.coordinator.core.state import Run
from headrace.messages import Query, QueryAnswer

OF_RUN_MAX: Final = 100
ALL_MAX: Final = 10_000
WAIT_MS_MAX: Final = 60_000


class Question:
    """One that waits for its answer."""

    __slots__ = ("answer", "query", "run", "until_ms")

    def __init__(self, run: str, query: Query, until_ms: int) -> None:
        self.run, self.query, self.until_ms = run, query, until_ms
        self.answer: QueryAnswer | Refusal | None = None


class Questions:
    """One leader's."""

    def __init__(self) -> None:
        self._of_run: dict[str, dict[str, Question]] = {}
        self._count = 0
        self.settled: list[Question] = []
        """Those that have an answer which nobody has been told yet."""

    def __len__(self) -> int:
        return self._count

    def ask(self, run: Run, query: Query, until_ms: int) -> Question | Refusal:
        """Keep a question until it is answered, or *until_ms*."""
        known = self._of_run.setdefault(run.key, {})
        if query.id in known:
            return Refusal("conflict", f"query {query.id} is being answered already")
        if len(known) >= OF_RUN_MAX or self._count >= ALL_MAX:
            return Refusal("busy", f"{len(known)} queries of the run wait for an answer", 200)
        question = known[query.id] = Question(run.key, query, until_ms)
        self._count += 1
        return question

    def of(self, run: Run) -> list[Query]:
        """Return what is to be sent along to the function of *run*: also what was sent before."""
        if not self._count:
            return []
        return [question.query for question in self._of_run.get(run.key, {}).values()]

    def answered(self, run: Run, answers: Iterable[QueryAnswer]) -> None:
        """The function has answered."""
        for answer in answers:
            self._settle(run.key, answer.id, answer)

    def expire(self, now_ms: int) -> None:
        """Give up what has waited long enough."""
        for key, known in list(self._of_run.items()):
            for name, question in list(known.items()):
                if question.until_ms <= now_ms:
                    reason = "no worker has answered the query in time"
                    self._settle(key, name, Refusal("timed-out", reason))

    def drop(self, run: Run, reason: str) -> None:
        """The run will answer nothing any more."""
        for name in list(self._of_run.get(run.key, ())):
            self._settle(run.key, name, Refusal("conflict", reason))

    def _settle(self, key: str, name: str, answer: QueryAnswer | Refusal) -> None:
        known = self._of_run.get(key, {})
        question = known.pop(name, None)
        if question is None:
            return
        if not known:
            del self._of_run[key]
        self._count -= 1
        question.answer = answer
        self.settled.append(question)
