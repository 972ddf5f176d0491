"""Turns of workflow functions against a `JournalOwner`: workers that can be killed anywhere."""

from __future__ import annotations

import asyncio

from headrace.errors import Unavailable
from headrace.messages import TurnOutcome
from headrace.sdk import Terms, TurnRun, Workflow, new_execution
from support.journal_owner import JournalOwner

TURN_S = 10.0


class Killed(Exception):
    """The worker is killed here."""


class OwnerDesk:
    """A `Desk` on a `JournalOwner`. *kill_at*: the report (from 1) at which the worker dies,
    before it arrives, or (*answered*) before its answer is read."""

    def __init__(self, owner, token, *, kill_at=0, answered=False):
        self.owner, self.token = owner, token
        self.sequence = 0
        self.kill_at, self.answered = kill_at, answered
        self.beats = 0
        self.on_report = None

    async def report(self, *, seen, changes, end, answers, ahead=0):
        self.sequence += 1
        if self.sequence == self.kill_at and not self.answered:
            raise Killed
        if self.on_report is not None:
            self.on_report(self)
        reply = self.owner.report(self.token, self.sequence, seen, changes, end, answers, ahead)
        if self.sequence == self.kill_at:
            raise Killed
        await asyncio.sleep(0)
        return reply

    inline_bytes = 1 << 20

    async def outgoing(self, data):
        return data

    def beat(self):
        self.beats += 1


def terms(owner, *, short_retry_ms=0):
    return Terms(now_ms=lambda: owner.now_ms, chance=lambda: 0.0, short_retry_ms=short_retry_ms)


class Worker:
    """Runs turns, with or without a cache of waiting functions."""

    def __init__(self, workflow: Workflow, owner: JournalOwner, *, sticky=False, **options):
        self.workflow, self.owner, self.sticky = workflow, owner, sticky
        self.cached = None
        self.lines: list[tuple[str, str]] = []
        self.options = options
        self.desk = None
        self.asked = 0
        """Reports of turns that were not killed."""
        self.overtaken = 0

    async def turn(self, *, on_report=None, **kill):
        cached, self.cached = self.cached, None
        since = cached[1] if cached is not None else 0
        token, turn = self.owner.turn(since=since)
        if cached is not None and turn.generation == cached[0].generation:
            execution = cached[0]
            execution.feed(cached[2])
            execution.feed(turn.entries)
        else:
            execution = new_execution(
                self.workflow, "ns/run", turn, on_log=lambda s, t: self.lines.append((s, t))
            )
        desk = self.desk = OwnerDesk(self.owner, token, **kill)
        desk.on_report = on_report
        run = self.run = TurnRun(self.workflow, execution, desk, terms(self.owner, **self.options))
        try:
            async with asyncio.timeout(TURN_S):
                end = await run.run(turn)
        except Killed:
            self.owner.lose()
            run.execution.close()
            return None
        except Unavailable:
            return None
        self.asked += desk.sequence
        self.overtaken += run.execution is not execution
        if end is not None and end.outcome == TurnOutcome.WAITING and self.sticky:
            known = run.backlog[-1].number if run.backlog else run.execution.seen
            self.cached = (run.execution, known, run.backlog)
        else:
            run.execution.close()
        return end


async def run_to_end(workflow, owner, *, sticky=False, turns=200, **options):
    """Take turns, and let time pass when nothing is due, until the run has ended or waits for
    something that no time brings."""
    worker = Worker(workflow, owner, sticky=sticky, **options)
    for _ in range(turns):
        if owner.end is not None or owner.blocked is not None:
            return owner
        if owner.due:
            await worker.turn()
            continue
        due_ms = owner.next_due()
        if due_ms is None:
            return owner
        owner.advance(due_ms - owner.now_ms)
    raise AssertionError("the run does not come to an end")
