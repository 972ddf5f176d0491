"""Coordinators' control planes in one thread, on virtual time, over a broker that can fail.

Everything is decided by a seed. pysyncobj's clock and randomness are replaced (`World` is a
context manager); nothing else of it is.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from unittest import mock

from headrace.coordinator.control.member import Cadence, Member
from headrace.coordinator.control.raft import RaftTimings
from headrace.coordinator.control.view import ControlState, state_hash
from headrace.messages import WorkerHeartbeat, decode, encode, subjects

EPOCH_MS = 1_700_000_000_000
FAULTS = ["kill", "kill", "stop", "freeze", "cut", "broker", "all", "loss"]
PAUSES_S = [0.05, 0.3, 0.8, 2.0, 5.0]


class VirtualClock:
    def __init__(self, world: World) -> None:
        self._world = world

    def now_ms(self) -> int:
        return EPOCH_MS + int(self._world.now_s * 1000)

    def monotonic(self) -> float:
        return 1000.0 + self._world.now_s


@dataclass
class Node:
    id: str
    peers: tuple[str, ...]
    member: Member
    incarnation: str
    alive: bool = True
    frozen: bool = False
    up: bool = True
    inbox: list[tuple[str, bytes]] = field(default_factory=list)
    assignments: list[tuple[dict[int, int], frozenset[int]]] = field(default_factory=list)


class World:
    def __init__(
        self,
        seed: int,
        *,
        shards: Iterable[int] = range(4),
        loss: float = 0.0,
        delay_s: float = 0.001,
        timings: RaftTimings | None = None,
        cadence: Cadence | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.now_s = 0.0
        self.shards = tuple(shards)
        self.loss, self.delay_s = loss, delay_s
        self.timings, self.cadence = timings, cadence
        self.clock = VirtualClock(self)
        self.nodes: dict[str, Node] = {}
        self.broker_up = True
        self.on_message: Callable[[str, bytes], None] | None = None
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._lives = itertools.count(1)
        self._last: dict[tuple[str, str], float] = {}
        self._patches = [
            mock.patch("pysyncobj.syncobj.monotonicTime", self.clock.monotonic),
            mock.patch("pysyncobj.syncobj.random", self.rng),
            mock.patch("headrace.coordinator.control.raft.random", self.rng),
            mock.patch("headrace.coordinator.control.member.random", self.rng),
        ]

    def __enter__(self) -> World:
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for node in self.nodes.values():
            node.member.close()
        for patch in self._patches:
            patch.stop()

    # -- actors --------------------------------------------------------------------------------

    def start(self, identity: str, peers: Iterable[str], **options: Any) -> Node:
        """Start (or restart, in a new life) a coordinator."""
        former = self.nodes.get(identity)
        if former:
            former.alive = False
            former.member.close()
        incarnation = f"{identity}.{next(self._lives)}"
        peers = tuple(peers)
        node: Node

        def publish(subject: str, payload: bytes, /) -> bool:
            return self._publish(node, subject, payload)

        options.setdefault("timings", self.timings if len(peers) > 1 else None)
        node = Node(identity, peers, cast("Any", None), incarnation)
        node.member = Member(
            coordinator_id=identity,
            peers=peers,
            incarnation=incarnation,
            clock=self.clock,
            publish=publish,
            connected=lambda: node.alive and node.up and self.broker_up,
            shards=self.shards,
            cadence=self.cadence,
            on_assignments=lambda owned, standby: node.assignments.append((owned, standby)),
            **options,
        )
        self.nodes[identity] = node
        self.after(self.rng.random() * 0.03, lambda: self._tick(node))
        return node

    def start_all(self, *ids: str) -> list[Node]:
        return [self.start(identity, ids) for identity in ids]

    def kill(self, identity: str) -> None:
        node = self.nodes[identity]
        node.alive = False
        node.member.close()

    def stop(self, identity: str) -> None:
        node = self.nodes[identity]
        node.member.stopped = True
        node.member.beat()
        self.kill(identity)

    def freeze(self, identity: str) -> None:
        self.nodes[identity].frozen = True

    def thaw(self, identity: str) -> None:
        """Wake up: timers first, as in a process that wakes with a full socket."""
        node = self.nodes[identity]
        if not node.frozen:
            return
        node.frozen = False
        if not node.alive:
            return
        self._tick(node, again=False)
        waiting, node.inbox = node.inbox, []
        for subject, data in waiting:
            self._hear(node, subject, data)

    def worker(self, identity: str, **changes: Any) -> None:
        """Publish one heartbeat of a worker to everybody."""
        fields: dict[str, Any] = {
            "version": 1,
            "id": identity,
            "incarnation": f"{identity}.1",
            "namespace": "default",
            "capabilities": ["linux"],
            "handlers": {},
            "slots": 4,
            "free": 4,
            "started_ms": 1,
        }
        beat = WorkerHeartbeat(**{**fields, **changes})
        self._spread(
            "", subjects.worker_heartbeat(beat.namespace, identity, beat.capabilities), encode(beat)
        )

    def alive(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.alive]

    def controllers(self) -> list[str]:
        return [node.id for node in self.alive() if node.member.is_controller and not node.frozen]

    def hurt(self, rng: random.Random, ids: Sequence[str]) -> str:
        """Do one fault, for a while, then what it takes to get over it; return its name."""
        name, fault, for_s = rng.choice(ids), rng.choice(FAULTS), rng.choice(PAUSES_S)
        node = self.nodes[name]
        if fault in ("kill", "stop"):
            (self.kill if fault == "kill" else self.stop)(name)
            self.run(for_s)
            self.start(name, ids)
        elif fault == "freeze":
            self.freeze(name)
            self.run(for_s)
            self.thaw(name)
        elif fault == "cut":
            node.up = False
            self.run(for_s)
            node.up = True
        elif fault == "broker":
            self.broker_up = False
            self.run(for_s)
            self.broker_up = True
        elif fault == "all":
            for each in ids:
                self.kill(each)
            self.run(for_s)
            for each in ids:
                self.start(each, ids)
                self.run(rng.choice([0.0, 0.1, 1.0]))
        else:
            usual, self.loss = self.loss, 0.5
            self.run(for_s)
            self.loss = usual
        self.run(rng.choice([0.0, 0.0, 0.1, 0.5, 2.0]))
        return fault

    # -- time ----------------------------------------------------------------------------------

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + delay_s, next(self._order), action))

    def run(self, for_s: float) -> None:
        self.run_until(lambda: False, within_s=for_s)

    def run_until(self, reached: Callable[[], bool], *, within_s: float) -> bool:
        """Let time pass until *reached*; False when it was not within *within_s*."""
        end_s = self.now_s + within_s
        while self._events and self._events[0][0] <= end_s:
            self.now_s, _, action = heapq.heappop(self._events)
            action()
            if reached():
                return True
        self.now_s = end_s
        return reached()

    def converged(self, ids: Iterable[str] | None = None) -> bool:
        """All living coordinators agree, about living owners of all shards."""
        nodes = [self.nodes[name] for name in ids] if ids is not None else self.alive()
        views = {view_key(node.member.view) for node in nodes}
        if len(views) != 1:
            return False
        view = nodes[0].member.view
        living = {(node.id, node.incarnation) for node in nodes}
        online = {key for key, record in view.coordinators.items() if record.status == "online"}
        return (
            set(view.shards) == set(self.shards)
            and all((held.owner, held.incarnation) in living for held in view.shards.values())
            and online == {node.id for node in nodes}
            and all(node.member.owned == view.owned_by(node.id, node.incarnation) for node in nodes)
        )

    # -- inside --------------------------------------------------------------------------------

    def _tick(self, node: Node, *, again: bool = True) -> None:
        if not node.alive:
            return
        if not node.frozen:
            node.member.tick()
            if node.member.sick:
                node.member.rebuild(node.member.sick)
        if again:
            self.after(node.member.tick_s, lambda: self._tick(node))

    def _publish(self, node: Node, subject: str, payload: bytes) -> bool:
        if not (node.alive and node.up and self.broker_up):
            return False
        if self.on_message is not None:
            self.on_message(subject, payload)
        self._spread(node.id, subject, payload)
        return True

    def _spread(self, sender: str, subject: str, payload: bytes) -> None:
        for node in self.alive():
            if not node.up or not self.broker_up:
                continue
            if subject.startswith("headrace.raft.") and subject != f"headrace.raft.{node.id}":
                continue
            if self.loss and self.rng.random() < self.loss:
                continue
            at_s = self.now_s + self.delay_s * (0.2 + self.rng.random())
            at_s = max(at_s, self._last.get((sender, node.id), 0.0))
            self._last[sender, node.id] = at_s
            self.after(at_s - self.now_s, lambda node=node: self._deliver(node, subject, payload))

    def _deliver(self, node: Node, subject: str, payload: bytes) -> None:
        if not node.alive or not node.up or not self.broker_up:
            return
        if node.frozen:
            node.inbox.append((subject, payload))
        else:
            self._hear(node, subject, payload)

    def _hear(self, node: Node, subject: str, payload: bytes) -> None:
        if subject.startswith("headrace.raft."):
            if node.member.hear_raft(payload):
                self.after(0.0, lambda: self._kick(node))
        elif subject.startswith("headrace.hb.coordinator."):
            node.member.hear_coordinator(subject, payload)
        else:
            node.member.hear_worker(subject, decode(WorkerHeartbeat, payload))

    def _kick(self, node: Node) -> None:
        if node.alive and not node.frozen:
            node.member.tick_raft()


def view_key(view: ControlState) -> tuple[Any, ...]:
    """What must be equal everywhere, whatever the view number (healings change that alone)."""
    copy = view.copy()
    copy.number = 0
    return (state_hash(copy),)
