"""What the cluster looks like: `ServerInfo`, gathered from all coordinators."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from headrace.bus import Message, Subscription
from headrace.coordinator.core import state_hash
from headrace.coordinator.runtime.skew import skew_text
from headrace.messages import ServerInfo, ShardInfo, WorkerView, decode, encode

if TYPE_CHECKING:
    from headrace.coordinator.runtime.server import CoordinatorServer

SHARDS = "headrace.shards"
"""Every coordinator answers with what it knows of the shards that it leads."""
GATHER_S = 0.5
COMPARE_S = 1.0
"""For a standby to say its hash; with `GATHER_S` less than a client gives one try."""
HASH_RUNS_MAX = 20_000
"""Above this many live runs a hash would hold the shard up; it is left out."""


class _Ask(msgspec.Struct, frozen=True, array_like=True):
    hashes: bool = False


class _HashAt(msgspec.Struct, frozen=True, array_like=True):
    shard: int
    position: int


class Census:
    """One coordinator's part of the cluster's description."""

    def __init__(self, server: CoordinatorServer) -> None:
        self._server = server

    def subscribe(self) -> list[Subscription]:
        """Begin to answer other coordinators."""
        bus = self._server.bus
        return [
            bus.subscribe(SHARDS, self._on_ask),
            bus.subscribe(f"headrace.check.{self._server.control.id}", self._on_check),
        ]

    def backlog(self) -> int:
        """Return the ready steps of the shards led here."""
        total = 0
        for shard in self._server.shards.values():
            machine = shard.owner.machine if shard.owner is not None else None
            if machine is not None:
                total += sum(lane.length for lane in machine.ready.lanes.values())
        return total

    def share(self) -> float:
        """Return the part of the workers' slots that is ours: by backlog, never nothing."""
        others = self._server.control.living_coordinators()
        if len(others) < 2:
            return 1.0
        own = self._server.control.id
        backlogs = {beat.id: beat.backlog + 1 for beat in others if beat.owned}
        total = sum(backlogs.values())
        mine = backlogs.get(own, 1)
        # At least half of an even part: backlogs say nothing of which lanes they wait in.
        return max(mine / total, 0.5 / len(backlogs)) if total else 1.0

    # -- shards ---------------------------------------------------------------------------------

    def _on_ask(self, message: Message) -> None:
        ask = decode(_Ask, message.data)
        self._server.bus.respond(message, encode(self._local(hashes=ask.hashes)))

    def _local(self, *, hashes: bool) -> list[ShardInfo]:
        found = []
        dispatcher = self._server.dispatcher
        missing = sorted(dispatcher.missing_since) if dispatcher is not None else []
        for number, shard in self._server.shards.items():
            owner = shard.owner
            machine = owner.machine if owner is not None else None
            if owner is None or machine is None or shard.log is None:
                continue
            state = machine.state
            few = len(state.runs) <= HASH_RUNS_MAX
            found.append(
                ShardInfo(
                    shard=number,
                    level=shard.level,
                    owner=self._server.control.id,
                    epoch=shard.log.epoch,
                    runs=len(state.runs),
                    ready=sum(lane.length for lane in machine.ready.lanes.values()),
                    position=state.batch_position,
                    state_hash=state_hash(state) if hashes and few and owner.settled else "",
                    missing=missing,
                )
            )
        return found

    async def _gather(self, *, hashes: bool) -> dict[int, ShardInfo]:
        """Ask all coordinators; take what comes in time."""
        server = self._server
        found: dict[int, ShardInfo] = {}
        expected = max(len(server.control.living_coordinators()), 1)
        done = asyncio.Event()
        answers = 0

        def heard(message: Message) -> None:
            nonlocal answers
            answers += 1
            for info in decode(list[ShardInfo], message.data):
                known = found.get(info.shard)
                if known is None or info.epoch > known.epoch:
                    found[info.shard] = info
            if answers >= expected:
                done.set()

        inbox = server.bus.new_inbox()
        subscription = server.bus.subscribe(inbox, heard)
        try:
            server.bus.publish(SHARDS, encode(_Ask(hashes)), reply=inbox)
            async with asyncio.timeout(GATHER_S):
                await done.wait()
        except TimeoutError:
            pass
        finally:
            subscription.close()
        return found

    def _on_check(self, message: Message) -> None:
        ask = decode(_HashAt, message.data)
        shard = self._server.shards.get(ask.shard)
        follower = shard.follower if shard is not None else None
        if follower is None:
            self._server.bus.respond(message, encode(""))
            return

        async def compare() -> None:
            try:
                found = await follower.hash_at(ask.position)
            except TimeoutError:
                found = ""
            self._server.bus.respond(message, encode(found))

        self._server._ask(compare())

    # -- the whole --------------------------------------------------------------------------------

    async def info(self, *, workers: bool) -> ServerInfo:
        """Return the description; *workers* asks for everything, state hashes too."""
        server = self._server
        control = server.control
        view = control.view
        status = control.status()
        info = ServerInfo(
            version=1,
            release=_release(),
            controller=status.controller,
            slots=server.layout.slots(),
            level_shards=server.layout.level_shards(),
            payload_max=server.config.limits.payload_bytes_max,
            payload_inline=server.config.limits.payload_inline_bytes,
            warnings=[*server.warnings, *self._problems()],
            broker={"url": ", ".join(server.bus.servers), "synced": server.synced},
        )
        info.coordinators = [
            msgspec.to_builtins(record) | {"id": name}
            for name, record in sorted(view.coordinators.items())
        ]
        if not workers:
            return info
        known = await self._gather(hashes=True)
        for number in server.layout.shards:
            shard = known.get(number) or ShardInfo(shard=number, level=server.layout.level(number))
            assignment = view.shards.get(number)
            if assignment is not None:
                shard.owner = shard.owner or assignment.owner
                shard.standby = assignment.standby if shard.level == "journal" else ""
            info.shards.append(shard)
        # All at once: a standby that is frozen costs its wait once, not once a shard.
        compared = (shard for shard in info.shards if shard.standby and shard.state_hash)
        await asyncio.gather(*map(self._compare, compared))
        info.workers = self._workers()
        return info

    async def _compare(self, shard: ShardInfo) -> None:
        """Ask the standby for its hash at the owner's position."""
        from headrace.errors import Unreachable

        try:
            answer = await self._server.bus.request(
                f"headrace.check.{shard.standby}",
                encode(_HashAt(shard.shard, shard.position)),
                timeout_s=COMPARE_S,
            )
        except Unreachable:
            return
        shard.standby_hash = decode(str, answer.data)
        if shard.standby_hash:
            shard.standby_position = shard.position

    def _problems(self) -> list[str]:
        server = self._server
        limit_ms = server.config.coordinator.clock_skew_ms_max
        skews = {name: record.skew_ms for name, record in server.control.view.coordinators.items()}
        skews[server.control.id] = server.skew.ms
        skewed = [
            skew_text(name, ms, limit_ms)
            for name, ms in sorted(skews.items())
            if abs(ms) > limit_ms
        ]
        return skewed + [
            f"shard {number}: {shard.problem}"
            for number, shard in sorted(self._server.shards.items())
            if shard.problem
        ]

    def _workers(self) -> list[WorkerView]:
        """Return workers: the registry's, with what the fleet heard last."""
        server = self._server
        dispatcher = server.dispatcher
        found: list[WorkerView] = []
        for record in dispatcher.fleet.workers.values() if dispatcher is not None else ():
            beat = record.heartbeat
            state = "Draining" if beat.draining else "Busy" if beat.free <= 0 else "Online"
            found.append(
                WorkerView(
                    id=beat.id,
                    incarnation=beat.incarnation,
                    namespace=beat.namespace,
                    state=state,
                    capabilities=list(beat.capabilities),
                    handlers=sorted(beat.handlers),
                    slots=beat.slots,
                    free=beat.free,
                    release=beat.release,
                    host=beat.host,
                    started_ms=beat.started_ms,
                    last_seen_ms=dispatcher.wall_ms(record.last_seen_ms) if dispatcher else 0,
                    problems=list(beat.problems),
                    versions={
                        name: str(described["version"])
                        for name, described in beat.handlers.items()
                        if described.get("version")
                    },
                )
            )
        heard = {view.id for view in found}
        for name, known in server.control.view.workers.items():
            if name not in heard:
                found.append(
                    WorkerView(
                        id=name,
                        incarnation=known.incarnation,
                        namespace=known.namespace,
                        state="Offline",
                        capabilities=list(known.capabilities),
                        slots=known.slots,
                    )
                )
        return sorted(found, key=lambda view: (view.namespace, view.id))


def _release() -> str:
    from headrace.coordinator.runtime.server import release

    return release()
