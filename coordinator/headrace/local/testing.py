"""An engine for tests of workflow functions: virtual time, faults, and what ran.

::

    async def test_an_order(headrace_engine):
        headrace_engine.fail_step("charge", times=2)
        assert await headrace_engine.start_and_wait(order_processing, "o-7") == "paid"
        assert headrace_engine.attempts("charge") == 3

Time stands still unless somebody waits for a run's end, or lets it pass (`pass_time`); then it
jumps from one thing that is due to the next. No function is kept between its turns, so that each
turn is a replay: a function that does not come out the same is found.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any, Final, Self

import msgspec

from headrace.coordinator.core import Run
from headrace.coordinator.runtime.owner import Owner
from headrace.local.engine import LocalEngine
from headrace.local.starts import Starts
from headrace.messages import HistoryEntry, RunView
from headrace.sdk import Duration, Handle, StepFailure, StepInfo, add_fault, remove_fault, to_ms

IDLE_ROUNDS: Final = 25
"""Rounds of the loop in which nothing happens, before time jumps."""
BUSY_S: Final = 0.0005
"""Between two looks while steps run."""
START_MS: Final = 1_767_225_600_000
"""When tests begin: 2026-01-01 00:00 UTC."""


class VirtualClock:
    """A clock that only moves when it is told to."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """See `Clock.now_ms`."""
        return self._now_ms

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()

    def move(self, to_ms: int) -> None:
        """Go on to *to_ms*."""
        self._now_ms = max(self._now_ms, to_ms)


class StepRecord(msgspec.Struct, frozen=True):
    """One entry of a run's journal that has ended."""

    key: str
    kind: str
    """`step`, `sleep`, `signal`, `child`, `value`, `update` or `cancel`."""
    name: str
    failed: bool
    error: str = ""


class _Starts(Starts):
    """Time jumps while the end of a run is awaited."""

    def __init__(
        self,
        namespace: str,
        now_ms: Callable[[], int],
        jumping: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        super().__init__(namespace, now_ms)
        self._jumping = jumping

    async def end(
        self, owner: Owner, run: str, ended: asyncio.Future[Run], *, alone: bool = False
    ) -> Run:
        with self._jumping():
            return await super().end(owner, run, ended, alone=alone)


class TestEngine(LocalEngine):
    """See the module. ``async with TestEngine() as engine``, or the fixture `headrace_engine`."""

    __test__ = False

    def __init__(self, *, start_ms: int = START_MS, **settings: Any) -> None:
        """*settings* are those of `LocalEngine`."""
        self.clock = VirtualClock(start_ms)
        super().__init__(clock=self.clock, **settings)
        self.starts = _Starts(self.namespace, self._now_ms, self._jumping)
        self._short_retry_ms = 0
        self._cached_functions = 0
        self._faults: dict[str, list[BaseException | type[BaseException]]] = {}
        self._attempts: Counter[str] = Counter()
        self._waiting = 0
        self._until_ms = 0
        self._reached = asyncio.Event()
        self._skipper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """See `LocalEngine`."""
        await super().__aenter__()
        add_fault(self._fault)
        self._skipper = asyncio.create_task(self._skip(), name="virtual-time")
        return self

    async def close(self, *, kill_s: float = 10.0) -> None:
        """See `LocalEngine.close`."""
        remove_fault(self._fault)
        skipper, self._skipper = self._skipper, None
        if skipper is not None:
            skipper.cancel()
            await asyncio.gather(skipper, return_exceptions=True)
        await super().close(kill_s=kill_s)

    # -- faults --------------------------------------------------------------------------------

    def fail_step(
        self,
        name: str,
        *,
        times: int = 1,
        error: BaseException | type[BaseException] | None = None,
    ) -> None:
        """Let the next *times* attempts of step *name* raise *error* instead of running.

        *error*: an exception, or the class of one; None: a failure of type `injected`.
        """
        raised = error or StepFailure("injected", f"{name} is to fail here")
        self._faults.setdefault(name, []).extend([raised] * times)

    def attempts(self, name: str) -> int:
        """Return how often an attempt of step *name* has begun, injected failures included."""
        return self._attempts[name]

    def _fault(self, info: StepInfo) -> None:
        self._attempts[info.name] += 1
        faults = self._faults.get(info.name)
        if faults:
            raise faults.pop(0)

    # -- time ----------------------------------------------------------------------------------

    async def pass_time(self, duration: Duration) -> None:
        """Let virtual time pass; what becomes due meanwhile happens in its order."""
        self._until_ms = self.clock.now_ms() + to_ms(duration)
        self._reached.clear()
        await self._reached.wait()

    async def wait(
        self, run: str, *, timeout_s: float | None = None, steps: bool = True
    ) -> RunView:
        """See `LocalEngine.wait`; time jumps meanwhile."""
        with self._jumping():
            return await super().wait(run, timeout_s=timeout_s, steps=steps)

    @contextlib.contextmanager
    def _jumping(self) -> Generator[None]:
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def _skip(self) -> None:
        """Jump to what is due next, whenever nothing else can happen."""
        idle = 0
        while True:
            if not self._waiting and not self._until_ms:
                await asyncio.sleep(BUSY_S)
                continue
            if self._busy():
                idle = 0
                await asyncio.sleep(BUSY_S)
                continue
            idle += 1
            await asyncio.sleep(0)
            if idle >= IDLE_ROUNDS:
                idle = 0
                if not self._jump():
                    await asyncio.sleep(BUSY_S)

    def _busy(self) -> bool:
        return len(self._executor.assignments) > 0 or self.running()._wake.is_set

    def _jump(self) -> bool:
        owner = self.running()
        machine = owner.machine
        due_ms = machine.timers.next_ms() if machine is not None else 0
        limit_ms = self._until_ms
        if due_ms and (not limit_ms or due_ms <= limit_ms):
            self.clock.move(due_ms)
            owner.wake()
            return True
        if limit_ms:
            self.clock.move(limit_ms)
            self._until_ms = 0
            self._reached.set()
            owner.wake()
            return True
        return False

    # -- what happened -------------------------------------------------------------------------

    async def journal(self, run: str | Handle[Any]) -> list[StepRecord]:
        """Return the entries of a run that have ended, in their order."""
        history = await self.history(run if isinstance(run, str) else run.id)
        return [_record(event) for event in history if event.type == "EntryEnded"]

    async def ran(self, run: str | Handle[Any]) -> list[str]:
        """Return the names of the steps that have completed, in their order."""
        elsewhere = {name for app in self.registry.apps.values() for name in app.steps}
        elsewhere -= {name for app in self.registry.apps.values() for name in app.workflows}
        return [
            record.name
            for record in await self.journal(run)
            if not record.failed
            # A step with `runs_on` is a run of its own.
            and (record.kind == "step" or (record.kind == "child" and record.name in elsewhere))
        ]


def _record(event: HistoryEntry) -> StepRecord:
    data = event.data
    error = data.get("error") or []
    told = f"{error[0]}: {error[1]}" if error else ""
    return StepRecord(data["key"], data["kind"], data.get("name", ""), bool(told), told)
