"""The rounds: load, nemesis, heal, settle, judge; and what is known in the end."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from headrace.client import Client
from headrace.errors import HeadraceError
from headrace.messages import ScheduleSpec, subjects
from support.rounds import histories, workflows
from support.rounds.checker import Rules, Violation, check, check_schedule
from support.rounds.clients import Clients
from support.rounds.fleet import SHARDS, Fleet
from support.rounds.nemeses import NEMESES, Nemesis
from support.rounds.record import Record

BEFORE_S = 1.0
"""Load before the fault."""
WHOLE_S = 60.0
SETTLE_S = 60.0
CLIENT_S = 5.0
LOAD_PER_S = 12.0
SCHEDULE = "tick"
TICK_S = 3.0
"""A run of the schedule has begun, and ended, so long after its time."""
TICKS_MAX = 10_000
COMPARE_EACH = 10
"""Replicas are compared after so many rounds."""


class Row(msgspec.Struct, kw_only=True):
    """One round."""

    number: int
    nemesis: str
    did: str = ""
    acknowledged: int = 0
    unknown: int = 0
    refused: int = 0
    runs: int = 0
    """Runs that have ended."""
    executions: int = 0
    again: int = 0
    """Executions of steps that had begun before: their workers were lost."""
    submit_pause_s: float | None = None
    """From the fault until every shard had acknowledged a submit that was sent after it."""
    step_pause_s: float | None = None
    """From the fault until a step of every shard had ended that was submitted after it."""
    whole_s: float = 0.0
    """From the begin of healing until every process and shard was there again."""
    settle_s: float = 0.0
    violations: list[Violation] = []


class Campaign:
    """Rounds on one fleet. `rows` and `violations` are what came out."""

    def __init__(self, fleet: Fleet, *, seed: int, per_s: float = LOAD_PER_S) -> None:
        self.fleet, self.seed, self._per_s = fleet, seed, per_s
        self.load_at_begin = round(os.getloadavg()[0], 1)
        """Of the machine: above 0 others were at work there."""
        self.rows: list[Row] = []
        self.final: list[Violation] = []
        self._witness = fleet.folder / "witness.jsonl"
        self._witness.touch()
        self._record = Record(fleet.folder / "record.jsonl")
        self._fingerprints: dict[str, str] = {}
        """Run -> of its history, when its round was over."""
        self._turned: set[int] = set()
        self._scheduled_ms = 0
        self.scheduled = 0
        """Runs of the schedule."""

    def close(self) -> None:
        """Close the record."""
        self._record.close()

    async def begin(self, client: Client) -> None:
        """Create the schedule, whose runs begin beside those of the clients."""
        spec = ScheduleSpec(cron="* * * * *", catch_up="all", input={"witness": str(self._witness)})
        await client.schedules.create(SCHEDULE, spec, workflows.plan("tick"))
        self._scheduled_ms = int(time.time() * 1000)

    def order(self, rounds: int, nemeses: Sequence[Nemesis]) -> list[Nemesis]:
        """Return who comes in which round: all of them in turn, each turn in another order."""
        chance, found = random.Random(f"{self.seed} order"), []
        while len(found) < rounds:
            found += chance.sample(list(nemeses), len(nemeses))
        return found[:rounds]

    async def client(self) -> Client:
        """Return a client of the fleet; the caller closes it."""
        return await self.fleet.client(timeout_s=CLIENT_S)

    async def round(self, client: Client, number: int, nemesis: Nemesis) -> Row:
        """Do one round, and judge it."""
        # The load draws from its own, so that the seed decides who is harmed, and when.
        chance, of_load = (random.Random(f"{self.seed} {number} {x}") for x in ("harm", "load"))
        row = Row(number=number, nemesis=nemesis.name)
        self._record.round = number
        first = len(self._record.operations)
        clients = Clients(
            client, self._record, witness=str(self._witness), chance=of_load, per_s=self._per_s
        )
        clients.start(SHARDS)
        late: list[str] = []
        try:
            await asyncio.sleep(BEFORE_S)
            fault_ns = time.monotonic_ns()
            row.did = await nemesis.harm(self.fleet, chance)
            if "clock" in row.did:
                self._turned.add(number)
            await asyncio.sleep(chance.uniform(*nemesis.hold_s))
            begun = time.monotonic()
            await self.fleet.mend()
            await self.fleet.whole(within_s=WHOLE_S)
            row.whole_s = time.monotonic() - begun
            if not await clients.back(fault_ns, within_s=WHOLE_S):
                text = f"a shard serves nobody {WHOLE_S} s after the cluster was whole"
                row.violations.append(Violation("heals", "", text))
            await clients.stop()
            begun = time.monotonic()
            late = await clients.settle(within_s=SETTLE_S)
            row.settle_s = time.monotonic() - begun
            self._pauses(row, self._record.operations[first:], fault_ns)
        except (AssertionError, HeadraceError) as error:
            row.violations.append(Violation("heals", "", f"{row.did}: {error}"))
        finally:
            await clients.stop()
            await clients.settle(within_s=0)
        for run in late:
            row.violations.append(Violation("ends", run, await self._why(client, run)))
        await self._judge(client, row, self._record.operations[first:])
        self.rows.append(row)
        return row

    async def _why(self, client: Client, run: str) -> str:
        try:
            told = await client.explain(run)
        except HeadraceError as error:
            return f"not over {SETTLE_S} s after the cluster was whole; explain: {error}"
        return f"not over {SETTLE_S} s after the cluster was whole: {told}"

    def _pauses(self, row: Row, operations: list[dict[str, Any]], fault_ns: int) -> None:
        """Find the first probe of each shard that was sent after the fault, and its end."""
        begun = {o["run"]: o["begun"] for o in operations if o["op"] == "submit"}
        found: dict[str, dict[int, int]] = {"submit": {}, "view": {}}
        for line in operations:
            op, shard = line["op"], line.get("shard", -1)
            if shard < 0 or op not in found or begun.get(line["run"], 0) < fault_ns:
                continue
            good = line["outcome"] == "ok" if op == "submit" else line["state"] == "COMPLETED"
            if good:
                found[op].setdefault(shard, line["ended"])
        for op, field in (("submit", "submit_pause_s"), ("view", "step_pause_s")):
            if len(found[op]) == SHARDS:
                setattr(row, field, (max(found[op].values()) - fault_ns) / 1e9)

    # -- judging ---------------------------------------------------------------------------------

    async def _judge(self, client: Client, row: Row, operations: list[dict[str, Any]]) -> None:
        runs = {line["run"] for line in operations}
        try:
            found = await histories.fetch(client, runs)
        except HeadraceError as error:
            row.violations.append(Violation("lost", "", f"histories cannot be read: {error}"))
            return
        executed = [line for line in self.executed() if line["step"].split("/")[1] in found]
        row.violations += check(operations, found, executed, self.rules())
        self._fingerprints |= {run: _fingerprint(found[run]) for run in found}
        outcomes = [line["outcome"] for line in operations if "outcome" in line]
        row.acknowledged = outcomes.count("ok")
        row.unknown, row.refused = outcomes.count("unknown"), outcomes.count("refused")
        row.runs = sum(
            any(event["type"] == "RunEnded" for event in history or ())
            for history in found.values()
        )
        begun = [line for line in executed if line["event"] == "begin" and not line["failing"]]
        row.executions = len(begun)
        row.again = len(begun) - len({line["step"] for line in begun})

    def rules(self) -> Rules:
        """Return what the workflows promise."""
        return Rules(
            ends=workflows.ENDS,
            limits={**workflows.LIMITS, workflows.LOCK: 1},
            orders=workflows.ORDERS,
            fans=workflows.FANS,
            undone=workflows.UNDONE,
            sleeps=workflows.SLEEPS,
            turned=self._turned,
        )

    def executed(self) -> list[dict[str, Any]]:
        """Return what the witness saw so far."""
        return [json.loads(line) for line in self._witness.read_text().splitlines()]

    async def compare(self) -> list[Violation]:
        """Compare the replicas of every shard."""
        ran = await self.fleet.flowctl("cluster", "check", "-o", "json", within_s=60.0)
        if ran.code:
            return [Violation("replicas", "", (ran.out + ran.err)[-2_000:])]
        return []

    async def finish(self, client: Client) -> None:
        """Judge everything once more: what was there at the end of a round must still be there."""
        try:
            await self._finish(client)
        except HeadraceError as error:
            text = f"the cluster does not answer at the end: {error}"
            self.final.append(Violation("lost", "", text))

    async def _finish(self, client: Client) -> None:
        operations = self._record.operations
        found = await histories.fetch(client, {line["run"] for line in operations}, within_s=120.0)
        self.final += check(operations, found, self.executed(), self.rules())
        known = {(v.rule, v.run) for row in self.rows for v in row.violations}
        self.final = [v for v in self.final if (v.rule, v.run) not in known]
        for run, before in self._fingerprints.items():
            if before != _fingerprint(found.get(run)):
                self.final.append(Violation("answers", run, "its history is another one by now"))
        self.final += await self._scheduled(client)
        self.final += await self.compare()

    async def _scheduled(self, client: Client) -> list[Violation]:
        """Pause the schedule, and judge its runs."""
        until_ms = int(time.time() * 1000)
        await asyncio.sleep(TICK_S)
        await client.schedules.pause(SCHEDULE)
        labels = {subjects.SCHEDULE_LABEL: SCHEDULE}
        page = await client.list(labels=labels, limit=TICKS_MAX)
        runs = [
            (run.id, _milliseconds(run.labels[subjects.TIME_LABEL]), run.state) for run in page.runs
        ]
        self.scheduled = len(runs)
        return check_schedule(runs, every_ms=60_000, since_ms=self._scheduled_ms, until_ms=until_ms)

    @property
    def violations(self) -> list[Violation]:
        """All of them."""
        return [v for row in self.rows for v in row.violations] + self.final

    @property
    def record(self) -> Path:
        """The file of what clients saw."""
        return self._record.path


def possible(fleet: Fleet) -> tuple[list[Nemesis], dict[str, str]]:
    """Return the nemeses that this machine can do, and why it cannot do the others."""
    can: list[Nemesis] = []
    cannot: dict[str, str] = {}
    for nemesis in NEMESES.values():
        why = fleet.lacks(nemesis.needs)
        if why:
            cannot[nemesis.name] = why
        else:
            can.append(nemesis)
    return can, cannot


def _milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def _fingerprint(history: histories.History | None) -> str:
    return hashlib.sha256(json.dumps(history, sort_keys=True).encode()).hexdigest()
