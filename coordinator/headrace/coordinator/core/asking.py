"""Who waits for a workflow function to answer; in no log, and lost with its owner.

A query goes to the run's live turn with the next reply, or makes a turn due. Whoever asked
waits here, for a bounded time.
"""

from __future__ import annotations

from typing import Any, Final

from headrace.coordinator.core.commands import Refusal
from headrace.coordinator.core.state import Run
from headrace.messages import Query, QueryAnswer, UpdateView

OF_RUN_MAX: Final = 100
ALL_MAX: Final = 10_000
WAIT_MS_MAX: Final = 60_000


Answer = QueryAnswer | UpdateView | Refusal


class Question:
    """One that waits for its answer: a query, or an update that is in the log."""

    __slots__ = ("answer", "query", "run", "until_ms", "waiter")

    def __init__(self, run: str, query: Query | None, until_ms: int) -> None:
        self.run, self.query, self.until_ms = run, query, until_ms
        self.answer: Answer | None = None
        self.waiter: Any = None
        """Whoever is to be told; set by the one that has asked."""


class Questions:
    """One leader's."""

    def __init__(self) -> None:
        self._of_run: dict[str, dict[str, list[Question]]] = {}
        self.open = 0
        """How many wait for an answer."""
        self.settled: list[Question] = []
        """Those that have an answer which nobody has been told yet."""

    def ask(self, run: Run, query: Query, until_ms: int) -> Question | Refusal:
        """Keep a question until it is answered, or *until_ms*; one that is sent again joins in."""
        return self._keep(query.id, Question(run.key, query, until_ms))

    def await_update(self, run: Run, key: str, until_ms: int) -> Question | Refusal:
        """Wait for the answer to an update, the entry *key*."""
        return self._keep(key, Question(run.key, None, until_ms))

    def _keep(self, name: str, question: Question) -> Question | Refusal:
        known = self._of_run.setdefault(question.run, {})
        if sum(map(len, known.values())) >= OF_RUN_MAX or self.open >= ALL_MAX:
            return Refusal("busy", "too many queries and updates wait for an answer", 200)
        known.setdefault(name, []).append(question)
        self.open += 1
        return question

    def of(self, run: Run) -> list[Query]:
        """Return what is to be sent along to the function of *run*: also what was sent before."""
        if not self.open:
            return []
        known = self._of_run.get(run.key, {}).values()
        return [asked[0].query for asked in known if asked[0].query is not None]

    def answered(self, run: Run, name: str, answer: Answer) -> None:
        """The function has answered a query (by its id) or an update (by its key)."""
        if self.open:
            self._settle(run.key, name, answer)

    def expire(self, now_ms: int) -> None:
        """Give up what has waited long enough. An update is still in the log then."""
        for key, known in list(self._of_run.items()):
            for name, asked in list(known.items()):
                for question in [one for one in asked if one.until_ms <= now_ms]:
                    reason = "no worker has answered the query in time"
                    late = Refusal("unavailable", reason)
                    pending = UpdateView(state="PENDING")
                    self._tell(key, name, question, late if question.query else pending)

    def drop(self, run: str, refusal: Refusal) -> None:
        """The run will answer nothing any more."""
        for name in list(self._of_run.get(run, ())):
            self._settle(run, name, refusal)

    def _settle(self, key: str, name: str, answer: Answer) -> None:
        for question in list(self._of_run.get(key, {}).get(name, ())):
            self._tell(key, name, question, answer)

    def _tell(self, key: str, name: str, question: Question, answer: Answer) -> None:
        known = self._of_run[key]
        known[name].remove(question)
        if not known[name]:
            del known[name]
        if not known:
            del self._of_run[key]
        self.open -= 1
        question.answer = answer
        self.settled.append(question)
