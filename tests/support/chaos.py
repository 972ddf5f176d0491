"""A load of many small runs, and the verdict on what became of it.

The journal (what ran) is written by the steps themselves, the history (what was recorded) by the
system: `Load.verdict` compares the two.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Collection
from typing import Any, NamedTuple

from headrace.client import Submission
from headrace.errors import HeadraceError
from headrace.language import compile_workflow
from headrace.messages import HistoryEntry, RunView
from headrace.plan import Plan
from support.cluster import POLL_S, Cluster, until

_count = itertools.count(1)
APP = "support.chaos_app:app"
STEPS = 3
BATCH = 50
AT_ONCE = 100
OUTSTANDING = 150
"""Runs that may wait for their steps before more are submitted."""
_CHAIN = """\
name: chain
inputs:
  journal: {{type: string, required: true}}
tasks:
  - name: first
    type: chaos/note
    config: {{journal: "${{{{ inputs.journal }}}}", seconds: {seconds}}}
  - name: second
    type: chaos/note
    depends_on: [first]
    config: {{journal: "${{{{ inputs.journal }}}}", seconds: {seconds}}}
  - name: third
    type: chaos/note
    depends_on: [second]
    config: {{journal: "${{{{ inputs.journal }}}}", seconds: {seconds}}}
"""


class Execution(NamedTuple):
    """One line of the journal."""

    key: str
    attempt: int
    token: int
    pid: int


class Verdict(NamedTuple):
    """What the comparison found."""

    runs: int
    executions: int
    twice: int
    """Steps that ran more than once, allowed or not."""


class Load:
    """Runs of three steps each, submitted while the cluster is harmed."""

    def __init__(
        self, cluster: Cluster, *, runs: int = 10**9, seconds: float = 0.02, more: str = ""
    ) -> None:
        """*more*: lines at the top level of the workflow; by default runs until `finish`."""
        self.cluster, self.wanted = cluster, runs
        self.journal = cluster.folder / f"journal-{next(_count)}"
        self.journal.touch()
        self.plan = compiled(more + _CHAIN.format(seconds=seconds))
        self.acknowledged: list[str] = []
        self.refused: list[HeadraceError] = []
        self._task: asyncio.Task[None] | None = None
        self._enough = False

    # -- submitting ------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to submit, in the background."""
        self._task = asyncio.create_task(self._submit(), name="load")

    async def _submit(self) -> None:
        async with await self.cluster.client(timeout_s=20.0) as client:
            left = self.wanted
            while left > 0 and not self._enough:
                count = min(BATCH, left)
                await self._room()
                left -= count
                batch = [
                    Submission(plan=self.plan, input={"journal": str(self.journal)})
                    for _ in range(count)
                ]
                try:
                    found = await client.submit_many(batch)
                except HeadraceError as error:
                    # The outcome is unknown: these runs were not acknowledged.
                    self.refused += [error] * count
                    continue
                for one in found:
                    if isinstance(one, RunView):
                        self.acknowledged.append(one.id)
                    else:
                        self.refused.append(one)

    async def _room(self) -> None:
        """Wait while much is outstanding: submits go on for as long as the load does."""
        while not self._enough:
            begun = self.journal.read_bytes().count(b"\n")
            if len(self.acknowledged) * STEPS - begun < OUTSTANDING * STEPS:
                return
            await asyncio.sleep(POLL_S)

    async def submitted(self, *, within_s: float = 60.0) -> None:
        """Wait until all were submitted."""
        assert self._task is not None
        await asyncio.wait_for(self._task, within_s)

    async def finish(self, *, within_s: float = 60.0) -> None:
        """Submit what is on its way, and no more."""
        self._enough = True
        await self.submitted(within_s=within_s)

    async def stop(self) -> None:
        """Submit no more."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # -- watching ----------------------------------------------------------------------------------

    def executions(self) -> list[Execution]:
        """What ran so far."""
        lines = self.journal.read_text().splitlines()
        words = [line.split() for line in lines]
        return [Execution(k, int(a), int(t), int(p)) for k, a, t, p in words]

    async def progressed(self, share: float, *, within_s: float = 60.0) -> None:
        """Wait until this share of all steps has begun."""
        count = int(share * self.wanted * STEPS)
        await until(
            lambda: self.journal.read_bytes().count(b"\n") >= count,
            within_s=within_s,
            what=f"{count} steps to begin",
        )

    async def goes_on(self, steps: int = 50, *, within_s: float = 60.0) -> None:
        """Wait until so many steps more have begun."""
        count = self.journal.read_bytes().count(b"\n") + steps
        await until(
            lambda: self.journal.read_bytes().count(b"\n") >= count,
            within_s=within_s,
            what=f"{steps} steps more to begin",
        )

    async def ended(self, *, within_s: float = 90.0) -> list[RunView]:
        """Return every acknowledged run once it has ended; fail for those that do not."""
        deadline = time.monotonic() + within_s
        gate = asyncio.Semaphore(AT_ONCE)
        async with await self.cluster.client(timeout_s=20.0) as client:

            async def wait(run: str) -> RunView:
                async with gate:
                    left_s = max(deadline - time.monotonic(), 0.05)
                    return await client.wait(run, left_s)

            views = await asyncio.gather(*(wait(run) for run in self.acknowledged))
            stuck = [view.id for view in views if view.state != "COMPLETED"]
            if stuck:
                why = await client.explain(stuck[0])
                history = await client.history(stuck[0])
                raise AssertionError(
                    f"{len(stuck)} of {len(views)} acknowledged runs are not completed, "
                    f"e.g. {stuck[0]}: {why}\n{history}"
                )
            return list(views)

    # -- judging ---------------------------------------------------------------------------------

    async def verdict(self, *, killed: Collection[int] = ()) -> Verdict:
        """Fail if something ran that may not have run; *killed*: pids of killed workers.

        - every acknowledged run completed, and each of its steps was recorded once;
        - what was recorded did run; no attempt of a step ran twice;
        - what ran and was not recorded ran on a worker that was killed, and the history says
          that the attempt was lost.
        """
        views = await self.ended()
        histories = await self._histories([view.id for view in views])
        ran: dict[str, list[Execution]] = defaultdict(list)
        for execution in self.executions():
            ran[execution.key].append(execution)
        wrong: list[str] = []
        for run, history in histories.items():
            for path in ("first", "second", "third"):
                key = f"default/{run}/{path}"
                wrong += judged(ran[key], of_step(history, path), killed)
        assert not wrong, f"{len(wrong)} steps went wrong:\n" + "\n".join(wrong[:10])
        twice = sum(len(executions) > 1 for executions in ran.values())
        return Verdict(len(views), sum(map(len, ran.values())), twice)

    async def _histories(self, runs: list[str]) -> dict[str, list[HistoryEntry]]:
        gate = asyncio.Semaphore(AT_ONCE)
        async with await self.cluster.client(timeout_s=20.0) as client:

            async def one(run: str) -> list[HistoryEntry]:
                async with gate:
                    return list(await client.history(run))

            found = await asyncio.gather(*(one(run) for run in runs))
        return dict(zip(runs, found, strict=True))


def of_step(history: list[HistoryEntry], path: str) -> list[HistoryEntry]:
    """Return the entries of one step."""
    return [entry for entry in history if entry.path == path]


def judged(ran: list[Execution], history: list[HistoryEntry], killed: Collection[int]) -> list[str]:
    """Return what is wrong with one step."""
    completed = [entry for entry in history if entry.type == "StepCompleted"]
    lost = {entry.data["attempt"] for entry in history if entry.type == "StepLost"}
    about = f"\n  ran: {ran}\n  history: {[(e.type, e.data) for e in history]}"
    if len(completed) != 1:
        return [f"recorded {len(completed)} times{about}"]
    recorded: Any = completed[0].data["attempt"]
    attempts = [execution.attempt for execution in ran]
    if len(set(attempts)) != len(attempts):
        return [f"one attempt ran twice{about}"]
    if recorded not in attempts:
        return [f"attempt {recorded} was recorded and never ran{about}"]
    for execution in ran:
        if execution.attempt == recorded:
            continue
        if execution.pid not in killed:
            return [f"attempt {execution.attempt} ran on a worker that nobody killed{about}"]
        if execution.attempt not in lost:
            return [f"attempt {execution.attempt} was never called lost{about}"]
        if execution.attempt > recorded:
            return [f"attempt {execution.attempt} ran although {recorded} was recorded{about}"]
    return []


def compiled(text: str) -> Plan:
    """Return the plan of a workflow that uses our handlers."""
    return compile_workflow(text, file="chaos.yaml", allow_unknown=True)
