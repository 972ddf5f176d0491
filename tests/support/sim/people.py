"""Users of what is not a run: locks, definitions, variables, settings, events, cached results."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.errors import HeadraceError
from headrace.messages import (
    AcquireLock,
    ClearCached,
    DeleteDefinition,
    GetDefinition,
    GetKey,
    GetLock,
    GetNamespace,
    GetSchedule,
    GetVariables,
    ListCached,
    ListDefinitions,
    ListLocks,
    ListSchedules,
    ListTriggers,
    RegisterDefinition,
    ReleaseLock,
    RenewLock,
    SetNamespace,
    SetVariable,
    subjects,
)
from headrace.plan import (
    Debounce,
    EventTrigger,
    Group,
    Plan,
    Schedule,
    Subworkflow,
    Task,
    encode_plan,
)
from support.sim.extras import COLOURS, FIXED_RATES, LOCKS, ROOM, VARIABLE
from support.sim.plans import HANDLER
from support.sim.registry import DEBOUNCED, QUIET_MS
from support.sim.schedules import PERIODS_MS

if TYPE_CHECKING:
    from support.sim.clients import SimClient

_decode = msgspec.msgpack.Decoder().decode
SYSTEM = subjects.SYSTEM_SHARD
LIBRARY, ORDERS = "library", "orders"


class People:
    """All of them; each does some things and is done."""

    def __init__(self, client: SimClient, rng: random.Random, until_s: float) -> None:
        self._client, self._rng, self._until_s = client, rng, until_s
        self._world = client.world
        self.sent: dict[int, str] = {}
        """Number -> subject of the events that are in their stream."""

    def start(self) -> None:
        """Let them begin."""
        users: dict[str, Callable[[], Awaitable[None]]] = {
            "lockers": self._lock,
            "definitions": self._register,
            "variables": self._set,
            "turns": self._weigh,
            "caches": self._clear,
            "events": self._publish,
        }
        for kind, user in users.items():
            if self._world.extras.has(kind):
                self._client.busy += 1
                self._client.process.spawn(self._do(user))

    async def _do(self, user: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(self._rng.random() * 0.5)
        await user()
        self._client.busy -= 1

    async def _pause(self, most_s: float = 0.8) -> None:
        await asyncio.sleep(self._rng.random() * most_s)

    async def _ask(self, request: Any, shard: int) -> None:
        """Look at something, once; the oracle compares the answer with the log."""
        try:
            await self._client.send(shard, request)
        except HeadraceError:
            return

    async def _change(self, kind: type[Any], shard: int, **fields: Any) -> Any:
        """Insist with new requests until there is a final answer."""
        while True:
            request = kind(**fields, **self._client.request())
            reply = await self._client.insist(request, shard)
            if reply is not None and reply.code != "too-late":
                # Where nothing was kept, nothing is cleared.
                if not reply.code and not (kind is ClearCached and not _decode(reply.result)):
                    self._world.record.changed(shard, request)
                return reply

    # -- locks ---------------------------------------------------------------------------------

    async def _lock(self) -> None:
        rng = self._rng
        for number in range(rng.randint(1, 4)):
            name = rng.choice([*LOCKS, ROOM])
            await self._hold(name, f"user {number}")
            await self._pause()

    async def _hold(self, name: str, owner: str) -> None:
        rng, client = self._rng, self._client
        shard = self._world.layout.home(subjects.lock_key("default", name))
        until_ms = client.clock.now_ms() + rng.choice([0, 600, 3_000])
        ttl_ms = rng.choice([300, 1_000])
        request = AcquireLock(
            name=name, ttl_ms=ttl_ms, until_ms=until_ms, owner=owner, **client.request()
        )
        reply = await client.insist(request, shard)
        while reply is not None and not reply.code and not _decode(reply.result).get("granted"):
            if client.clock.now_ms() > until_ms + 500:
                break
            await asyncio.sleep(0.1)
            reply = await client.insist(request, shard)
        if reply is None or reply.code or not (view := _decode(reply.result)).get("granted"):
            return
        who = rng.choice(
            [{"token": view["token"]}, {"owner": owner}, {"acquired_by": request.request_id}]
        )
        await self._ask(GetLock(name=name), shard)
        await self._pause(0.4)
        if rng.random() < 0.5 and "acquired_by" not in who:
            await self._change(RenewLock, shard, name=name, ttl_ms=ttl_ms, **who)
        await self._ask(ListLocks(), shard)
        if rng.random() < 0.3:
            await self._change(ReleaseLock, shard, name=name, force=True)
        elif rng.random() < 0.7:
            await self._change(ReleaseLock, shard, name=name, **who)
        key = subjects.rate_key("default", rng.choice([*FIXED_RATES]))
        await self._ask(GetKey(key=key, holder="default/r#1.1"), self._world.layout.home(key))

    # -- definitions ---------------------------------------------------------------------------

    async def _register(self) -> None:
        """Versions of a definition with a schedule, called by others; in the end it is deleted."""
        rng, client = self._rng, self._client
        home = self._world.layout.home(subjects.schedule_home(f"default/{LIBRARY}"))
        for number in range(rng.randint(1, 3)):
            version = rng.choice(["", f"v{number}"])
            plan = encode_plan(library(rng, number))
            await self._change(RegisterDefinition, SYSTEM, name=LIBRARY, version=version, plan=plan)
            reply = await client.insist(
                GetDefinition(name=LIBRARY, version=rng.choice(["", version])), SYSTEM, limit_s=6.0
            )
            if reply is not None and not reply.code:
                view = _decode(reply.result)
                caller = _calls(view["plan"], f"{LIBRARY}@{view['version']}")
                client.start(f"caller-{number}", caller, self._world.loop.now_s)
            await self._ask(ListDefinitions(name=rng.choice(["", LIBRARY])), SYSTEM)
            await self._ask(ListSchedules(), home)
            after_ms = client.clock.now_ms()
            look = GetSchedule(
                name=f"{LIBRARY}.1", times=3, after_ms=after_ms, until_ms=after_ms + 60_000
            )
            await self._ask(look, home)
            await self._pause(1.5)
            if rng.random() < 0.3 and version:
                await self._change(DeleteDefinition, SYSTEM, name=LIBRARY, version=version)
        await asyncio.sleep(max(self._until_s - self._world.loop.now_s, 0.0))
        await self._change(DeleteDefinition, SYSTEM, name=LIBRARY)

    # -- settings ------------------------------------------------------------------------------

    async def _set(self) -> None:
        rng = self._rng
        for number in range(rng.randint(2, 6)):
            value = None if number and rng.random() < 0.2 else rng.choice(COLOURS)
            await self._change(SetVariable, SYSTEM, name=VARIABLE, value=value)
            await self._pause()
            await self._ask(GetVariables(), SYSTEM)

    async def _weigh(self) -> None:
        rng = self._rng
        for _ in range(rng.randint(1, 3)):
            await self._change(SetNamespace, SYSTEM, weight=rng.choice([0.5, 2.0, 7.0]))
            await self._pause()
            await self._ask(GetNamespace(), SYSTEM)

    async def _clear(self) -> None:
        rng = self._rng
        for _ in range(rng.randint(1, 3)):
            await self._pause(2.0)
            shard = rng.choice(list(self._world.layout.shards))
            await self._ask(ListCached(key=rng.choice(["", "one"])), shard)
            await self._change(ClearCached, shard, key=rng.choice(["", "one"]))

    # -- events --------------------------------------------------------------------------------

    async def _publish(self) -> None:
        """Events for a definition that is there before them, and stays."""
        rng = self._rng
        plan = encode_plan(orders(rng))
        await self._change(RegisterDefinition, SYSTEM, name=ORDERS, plan=plan)
        for number in range(rng.randint(2, 8)):
            subject = rng.choice(["order.made", DEBOUNCED])
            data = msgspec.json.encode({"id": number % 2})
            place = subjects.incoming("default", subject)
            try:
                stored = await self._client.bus.js.publish(place, data, timeout_s=1.0)
                self.sent[stored.seq] = subject
            except HeadraceError:
                continue
            finally:
                await self._pause(0.5)
        await self._ask(ListTriggers(), SYSTEM)


def _step(**fields: Any) -> Task:
    return Task(name="step", parent=0, uses=HANDLER, inputs={"kind": "instant"}, **fields)


def library(rng: random.Random, number: int) -> Plan:
    """Return a version of what others call, and what may begin by the clock."""
    every = Schedule(
        cron=rng.choice(list(PERIODS_MS)),
        catch_up=rng.choice(["none", "one", "all"]),
        overlap=rng.choice(["allow", "skip", "queue", "cancel-previous"]),
        jitter_ms=rng.choice([0, 300]),
    )
    root = Group(name="", size=2, kind="graph")
    schedules = (every,) if rng.random() < 0.6 else ()
    return Plan(name=LIBRARY, nodes=(root, _step(priority=number)), schedules=schedules)


def _calls(plan: bytes, source: str) -> Plan:
    root = Group(name="", size=2, kind="graph")
    call = Subworkflow(name="call", parent=0, plan=plan, source=source)
    return Plan(name="caller", nodes=(root, call))


def orders(rng: random.Random) -> Plan:
    """Return what events begin."""
    # Longer than any series of them: it changes nothing.
    quiet = Debounce(
        period_ms=QUIET_MS,
        max_ms=rng.choice([0, 60_000]),
        key=rng.choice(["", "${{ event.data.id }}"]),
    )
    paid = EventTrigger(subject=DEBOUNCED, debounce=quiet)
    made = EventTrigger(
        subject=rng.choice(["order.*", "order.made"]), filter=rng.choice(["", "true"])
    )
    root = Group(name="", size=2, kind="graph")
    return Plan(name=ORDERS, nodes=(root, _step()), events=(paid, made))
