"""An owner with everything around it in plain data: its log, dispatch, peers, archive, clients."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from headrace.coordinator.archive.memory import MemoryArchive
from headrace.coordinator.core import Facts, Folder, Loss, Machine, Order, Outgoing
from headrace.coordinator.core.ready import Lane
from headrace.coordinator.runtime.archiver import Archiver
from headrace.coordinator.runtime.inbox import PendingBatch
from headrace.coordinator.runtime.owner import Owner
from headrace.coordinator.runtime.snapshots import Snapshots
from headrace.coordinator.shardlog import MemoryLog, MemoryLogStore, MemorySnapshotStore
from headrace.messages import (
    CancelRun,
    ClientReply,
    GetRun,
    ReplyBatch,
    ResultBatch,
    ResultReply,
    ResultStatus,
    RunView,
    StepResult,
    StorePlan,
    SubmitRun,
    Task,
    decode,
)
from headrace.plan import Plan, encode_plan
from headrace.telemetry import SystemClock
from support.broker import eventually

NAMESPACE = "default"
BUILTIN = frozenset({"noop"})
_ids = itertools.count(1)


class GatedLog(MemoryLog):
    """A log in memory whose appends wait for `gate`, and fail as `faults` say, first one first."""

    def __init__(self, shard: int = 0, store: MemoryLogStore | None = None) -> None:
        super().__init__(shard, store)
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.faults: list[BaseException] = []
        self.stored_all_the_same = False
        """An append that fails is in the log nevertheless."""

    def append_now(self, payload: bytes) -> int:
        return 0

    async def append(self, payload: bytes) -> int:
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        if self.faults:
            error = self.faults.pop(0)
            if self.stored_all_the_same:
                super().append_now(payload)
            raise error
        return super().append_now(payload)


class FakeDispatch:
    """Keeps what the owner sends; credit is whatever the test says."""

    one_window = False

    def __init__(self) -> None:
        self.credits = 1_000
        self.idle = True
        self.sent: list[Task] = []
        self.epochs: list[int] = []
        self.orders: list[Order] = []
        self.adopted: list[tuple[int, list[tuple[str, int, int, str]]]] = []
        self.losses: list[Loss] = []
        self.lost_workers: list[tuple[str, str]] = []
        self.reserved: list[int] = []
        self.live: list[tuple[str, str]] | None = None
        """Whom broadcasts are told of; None: not known yet."""

    def credit(self, lane: Lane) -> tuple[int, str]:
        return self.credits, lane.name

    def stands_idle(self, lane: Lane) -> bool:
        return self.idle

    def members(
        self, namespace: str, capabilities: tuple[str, ...]
    ) -> list[tuple[str, str]] | None:
        return self.live

    def reserve(self, lane: Lane, count: int) -> None:
        self.reserved.append(count)

    def send(self, epoch: int, lane: Lane, wire_lane: str, tasks: Sequence[Task]) -> None:
        self.epochs.append(epoch)
        self.sent += tasks

    def recorded(self, results: Sequence[StepResult]) -> None:
        pass

    def order(self, order: Order) -> None:
        self.orders.append(order)

    def adopt(self, epoch: int, dispatched: Sequence[tuple[str, int, int, str]]) -> None:
        self.adopted.append((epoch, list(dispatched)))

    def lapsed(self, now_ms: int) -> list[Loss]:
        found, self.losses = self.losses, []
        return found

    def gone(self, now_ms: int) -> list[tuple[str, str]]:
        found, self.lost_workers = self.lost_workers, []
        return found

    def facts(self) -> Facts:
        return Facts()


class FakePeers:
    """Keeps what goes to other shards; the test confirms it, or does not."""

    def __init__(self) -> None:
        self.sent: list[tuple[Outgoing, Callable[[str], None]]] = []

    def send(self, outgoing: Outgoing, logged: Callable[[str], None]) -> None:
        self.sent.append((outgoing, logged))


class Kit:
    """What outlives an owner, and the owners on top of it."""

    def __init__(self, shard: int = 0) -> None:
        self.shard = shard
        self.store = MemoryLogStore()
        self.snapshot_store: Any = MemorySnapshotStore()
        self.archive: Any = MemoryArchive()
        self.clock = SystemClock()
        self.home: Callable[[str], int] = lambda _key: shard
        self.every_touches, self.every_ms = 0, 600_000
        self.owners: list[Owner] = []
        self.dispatch = FakeDispatch()
        self.peers = FakePeers()
        self.log: Any = None

    def owner(self, log: Any = None, **options: Any) -> Owner:
        """Make the next owner; it is not started."""
        self.dispatch, self.peers = FakeDispatch(), FakePeers()
        self.log = log or GatedLog(self.shard, self.store)
        owner = Owner(
            shard_log=self.log,
            identity=f"o{len(self.owners)}",
            clock=self.clock,
            chance=lambda: 0.5,
            new_id=lambda: f"b{next(_ids)}",
            home=self.home,
            dispatch=self.dispatch,
            peers=self.peers,
            snapshots=Snapshots(
                self.snapshot_store,
                self.clock,
                every_touches=self.every_touches,
                every_ms=self.every_ms,
            ),
            archiver=Archiver(self.archive, self.shard),
            builtin=BUILTIN,
            **options,
        )
        self.owners.append(owner)
        return owner

    @asynccontextmanager
    async def leading(self, log: Any = None, **options: Any) -> AsyncIterator[Owner]:
        """Run an owner; it must not have ended by itself."""
        owner = self.owner(log, **options)
        task = asyncio.create_task(owner.run())
        try:
            await settled(owner, task)
            yield owner
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def folded(self) -> Any:
        """Return the state that the whole log folds to."""
        from headrace.coordinator.core import ShardState

        folder = Folder(ShardState(self.shard, BUILTIN))
        for position, data in self.store.behind(0):
            folder.fold(position, data)
        return folder.state


async def settled(owner: Owner, task: asyncio.Task[None]) -> None:
    """Return when *owner* leads; fail with what ended it."""
    leading = asyncio.create_task(owner.leading.wait())
    async with asyncio.timeout(30):
        await asyncio.wait((leading, task), return_when=asyncio.FIRST_COMPLETED)
    leading.cancel()
    if task.done():
        task.result()


class Asked:
    """One batch of requests, and its replies once they are there."""

    def __init__(self, *requests: Any, size: int = 100) -> None:
        self.answer: list[ClientReply] | None = None
        self.batch = PendingBatch(NAMESPACE, list(requests), self._answered, size)

    def _answered(self, data: bytes) -> None:
        assert self.answer is None, "answered twice"
        self.answer = decode(ReplyBatch, data).replies

    async def replies(self, within_s: float = 5.0) -> list[ClientReply]:
        await eventually(lambda: self.answer is not None, within_s=within_s)
        assert self.answer is not None
        return self.answer

    async def reply(self, within_s: float = 5.0) -> ClientReply:
        return (await self.replies(within_s))[0]


def ask(owner: Owner, *requests: Any, size: int = 100) -> Asked:
    """Post requests."""
    asked = Asked(*requests, size=size)
    owner.post_requests(asked.batch)
    return asked


async def submit(owner: Owner, plan: Plan, run: str = "r", **options: Any) -> RunView:
    """Store the plan and submit a run that is accepted."""
    digest = await store(owner, plan)
    asked = ask(owner, submission(owner, digest, run, **options))
    return view(await asked.reply())


async def store(owner: Owner, plan: Plan) -> str:
    """Store a plan; return its digest."""
    reply = await ask(owner, StorePlan(plan=encode_plan(plan))).reply()
    assert not reply.code, reply
    return msgspec.msgpack.decode(reply.result, type=str)


def submission(owner: Owner, digest: str, run: str = "r", **options: Any) -> SubmitRun:
    """Return a submit that may be sent for a minute."""
    options.setdefault("request_id", f"q{next(_ids)}")
    options.setdefault("not_after_ms", owner._clock.now_ms() + 60_000)
    return SubmitRun(run=run, plan=digest, **options)


def view(reply: ClientReply) -> RunView:
    """Return the run of a reply that is no refusal."""
    assert not reply.code, reply
    return msgspec.msgpack.decode(reply.result, type=RunView)


async def get(owner: Owner, run: str = "r", **options: Any) -> RunView:
    """Ask for a run."""
    return view(await ask(owner, GetRun(run=run, **options)).reply())


class Reported:
    """A batch of results, and the reply once it is there."""

    def __init__(self) -> None:
        self.answer: ResultReply | None = None

    def respond(self, data: bytes) -> None:
        assert self.answer is None, "answered twice"
        self.answer = decode(ResultReply, data)

    async def reply(self, within_s: float = 5.0) -> ResultReply:
        await eventually(lambda: self.answer is not None, within_s=within_s)
        assert self.answer is not None
        return self.answer


def report(owner: Owner, *tasks: Task, status: int = ResultStatus.COMPLETED) -> Reported:
    """Post results for *tasks*."""
    results = [
        StepResult(t.run, t.step, t.attempt, t.token, status, msgspec.Raw(b"\x80"), 1, 2)
        for t in tasks
    ]
    reported = Reported()
    owner.post_results(ResultBatch(1, "w", "1", results), reported.respond, 100 * len(tasks))
    return reported


async def do(owner: Owner, apply: Callable[[Machine], Any]) -> Any:
    """Run *apply* in a tick; return what it returned, once that tick began."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    owner.post(lambda machine: done.set_result(apply(machine)))
    async with asyncio.timeout(30):
        return await done


def cancel(owner: Owner, run: str = "r") -> CancelRun:
    """Return a request to cancel a run."""
    now_ms = owner._clock.now_ms()
    return CancelRun(run=run, request_id=f"c-{run}-{now_ms}", not_after_ms=now_ms + 60_000)
