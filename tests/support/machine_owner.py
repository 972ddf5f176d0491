"""The real state machine under the interface of `JournalOwner`, so that one suite holds both."""

from __future__ import annotations

import msgspec

from headrace.messages import Change, QueryAnswer, Turn, TurnEnd, TurnOutcome, TurnReply
from support.codekit import CodeKit, code_plan

LIVE = (TurnOutcome.WAITING, TurnOutcome.AGAIN, TurnOutcome.BLOCKED)


class MachineOwner:
    """One code-first run of a shard that is led by a `CodeKit`."""

    def __init__(self, inputs: dict[str, object] | None = None) -> None:
        self.kit = CodeKit()
        self.kit.start(code_plan(), input=inputs or {})
        self.end: TurnEnd | None = None
        self.blocked: TurnEnd | None = None
        self.reports: list[list[Change]] = []
        self._tasks: dict[int, object] = {}

    @property
    def now_ms(self) -> int:
        return self.kit.now_ms

    @property
    def due(self) -> bool:
        return bool(self.kit.dispatched())

    @property
    def journal(self) -> dict[str, object]:
        journal = self.kit.run().journal
        assert journal is not None
        return dict(journal.entries)

    def turn(self, *, since: int = 0) -> tuple[int, Turn]:
        task = self.kit.hold()
        self._tasks[task.token] = task
        turn = self.kit.turn()
        # To the machine it is one worker, which may have the function still; ours asks.
        reply = self.kit.tell(task=task, sequence=1, seen=since)
        return task.token, msgspec.structs.replace(turn, entries=reply.entries, since=since)

    def lose(self) -> None:
        if self.due:
            # Else the turn has ended, and only its worker does not know.
            self.kit.lose("f", worker="w.1")

    def report(
        self,
        token: int,
        sequence: int,
        seen: int,
        changes: list[Change],
        end: TurnEnd | None,
        answers: list[QueryAnswer],
        ahead: int = 0,
    ) -> TurnReply:
        task = self._tasks[token]
        reply = self.kit.tell(
            changes,
            end=end,
            task=task,
            sequence=sequence,
            seen=seen,
            answers=answers,
            ahead=ahead,
        )
        if reply.overtaken:
            self.reports.append(changes[:ahead])
        elif not reply.refused:
            self.reports.append(changes)
            if end is not None:
                # The turn is over: what is dispatched from now on is the next one.
                self.kit.tasks = {k: t for k, t in self.kit.tasks.items() if t is not task}
            if end is not None and end.outcome not in LIVE:
                self.end = end
            elif end is not None and end.outcome == TurnOutcome.BLOCKED:
                self.blocked = end
        return reply

    def next_due(self) -> int | None:
        return self.kit.machine.timers.next_ms() or None

    def advance(self, ms: int) -> None:
        self.kit.advance(ms)

    def signal(self, name: str, payload: object = None) -> None:
        self.kit.signal(name, payload)

    def update(self, key: str, name: str, argument: object = None) -> None:
        self.kit.update(name, argument)
