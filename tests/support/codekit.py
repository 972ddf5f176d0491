"""A `Kit` for code-first runs: what a worker reports of a workflow function, by hand."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.coordinator.core import Limits, Refusal, Run, TickEffects
from headrace.messages import (
    Change,
    Entry,
    EntryState,
    QueryAnswer,
    QueryRun,
    StorePlan,
    Task,
    Turn,
    TurnEnd,
    TurnReply,
    TurnReport,
    TurnWake,
    UnblockRun,
    UpdateRun,
)
from headrace.plan import Group, Plan, encode_plan
from headrace.plan import Task as PlanTask
from support.corekit import NAMESPACE, Kit

_encode = msgspec.msgpack.Encoder().encode
_turns = msgspec.msgpack.Decoder(Turn)


def raw(value: Any = None) -> msgspec.Raw:
    """Return *value* as it is sent."""
    return msgspec.Raw(_encode(value))


def code_plan(name: str = "f", **options: Any) -> Plan:
    """Return the plan of a workflow function."""
    task = PlanTask(name=name, uses=f"app@1/{name}", parent=0, runs_on=("app:app@1",), code=True)
    return Plan(name=name, nodes=(Group(name="", size=2), task), dialect="code", **options)


def values(run: Run) -> dict[str, Any]:
    """Return what is recorded as completed, by key."""
    assert run.journal is not None
    return {
        key: msgspec.msgpack.decode(entry.value)
        for key, entry in run.journal.entries.items()
        if entry.state == EntryState.COMPLETED
    }


class CodeKit(Kit):
    """One shard with code-first runs."""

    def __init__(self, **limits: int) -> None:
        super().__init__(limits=Limits(**limits))
        self._sequences: dict[tuple[str, int], int] = {}
        self.wakes: list[tuple[str, TurnWake]] = []
        """Told to workers whose turn has news."""

    def _act(self, effects: TickEffects) -> None:
        super()._act(effects)
        self.wakes += effects.wakes

    def entry(self, key: str, run: str = "r") -> Entry:
        """Return an entry of the journal."""
        journal = self.run(run).journal
        assert journal is not None
        return journal.entries[key]

    def hold(self, run: str = "r") -> Task:
        """Return the task of the live turn."""
        return next(t for t in self.tasks.values() if t.run == f"{NAMESPACE}/{run}")

    def turn(self, run: str = "r") -> Turn:
        """Return what the worker was given with the live turn."""
        return _turns.decode(self.hold(run).inputs)

    def tell(
        self,
        changes: list[Change] | None = None,
        *,
        end: TurnEnd | None = None,
        task: Task | None = None,
        run: str = "r",
        worker: str = "w",
        life: str = "1",
        sequence: int = 0,
        seen: int | None = None,
        answers: list[QueryAnswer] | None = None,
        ahead: int = 0,
    ) -> TurnReply:
        """Report of the live turn (or *task*); *seen* None: the worker knows everything."""
        task = task or self.hold(run)
        place = (task.run, task.token)
        if not sequence:
            sequence = self._sequences.get(place, 0) + 1
            self._sequences[place] = sequence
        if seen is None:
            found = self.machine.state.runs.get(task.run)
            seen = 0 if found is None or found.journal is None else found.journal.number
        report = TurnReport(
            1,
            worker,
            life,
            task.run,
            task.step,
            task.attempt,
            task.token,
            sequence,
            seen,
            changes or [],
            end,
            answers or [],
            ahead,
        )
        return self.tick(lambda m: m.turn(report))

    def update(self, name: str, argument: Any = None, run: str = "r", **options: Any) -> Any:
        """Send an update; return the reply, or the question that waits for it."""
        return self._mutate(UpdateRun, run, {"name": name, "argument": argument, **options})

    def query(self, name: str, argument: Any = None, run: str = "r", **options: Any) -> Any:
        """Send a query; return the question that waits for its answer, or the refusal."""
        options.setdefault("id", self.request_id())
        request = QueryRun(run=run, name=name, argument=argument, **options)
        return self.tick(lambda m: m.request(NAMESPACE, request))

    def unblock(self, action: str, run: str = "r", **options: Any) -> Any:
        """Say how a blocked run goes on."""
        return self._mutate(UnblockRun, run, {"action": action, **options})

    def told(self) -> list[Any]:
        """Return the answers that have come for those who wait."""
        return [question.answer for question in self.tick(lambda m: m.answers())]

    def submit_two_tasks(self) -> Refusal:
        """Try to store a plan with a workflow function and another task."""
        one = code_plan().nodes[1]
        other = PlanTask(name="g", uses="shell", parent=0)
        plan = Plan(name="f", nodes=(Group(name="", size=3), one, other))
        reply = self.tick(lambda m: m.request(NAMESPACE, StorePlan(plan=encode_plan(plan))))
        assert isinstance(reply, Refusal), reply
        return reply
