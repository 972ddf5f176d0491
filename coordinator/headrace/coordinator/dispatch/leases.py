"""Who holds which dispatched attempt of one shard, and whose hold has lapsed. Pure.

A lease begins when the task is sent, names its worker as soon as a heartbeat lists it, and ends
with the recorded result. Gray & Cheriton, "Leases" (1989); the fencing token makes a late holder
harmless, so a lapse is about liveness only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from headrace.coordinator.core import Loss
from headrace.coordinator.dispatch.fleet import Fleet
from headrace.messages import StepResult, Task, WorkerHeartbeat

ABSENT_MAX = 2
"""Heartbeats of its worker that may leave out a held step before it counts as dropped."""
ABSENT_MS = 1_000
"""And so long at least: workers send several heartbeats at once when they are asked to."""


class Lease(msgspec.Struct, gc=False):
    """One dispatched attempt."""

    attempt: int
    lane: str
    wire_lane: str
    sent_ms: int
    worker: str = ""
    running: bool = False
    prepared: bool = True
    """It is sent, or about to be; False while its inputs are being stored."""
    absent: int = 0
    absent_ms: int = 0
    details: Any = None
    """What the step's code said last in a heartbeat."""


class Leases:
    """The leases of one shard. Times are ms of a clock that never goes back."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.held: dict[tuple[str, int], Lease] = {}
        self.outstanding: dict[str, int] = {}
        """Lane -> dispatched attempts, those too that are only being logged."""
        self._reserved: dict[str, int] = {}

    def reserve(self, lane: str, count: int) -> None:
        """So many attempts will be sent once they are logged."""
        self._reserved[lane] = self._reserved.get(lane, 0) + count
        self.outstanding[lane] = self.outstanding.get(lane, 0) + count

    def release(self, lane: str, count: int) -> None:
        """So many of what was reserved in *lane* begin now."""
        reserved = self._reserved.pop(lane, 0)
        count = min(count, reserved)
        if count < reserved:
            self._reserved[lane] = reserved - count
        if count:
            self._take_out(lane, count)

    def begin(
        self, run: str, step: int, attempt: int, *, lane: str, wire_lane: str, now_ms: int
    ) -> None:
        """An attempt was sent."""
        key = (run, step)
        old = self.held.get(key)
        if old is not None:
            self._forget(key, old)
        self.held[key] = Lease(attempt, lane, wire_lane, now_ms)
        self.outstanding[lane] = self.outstanding.get(lane, 0) + 1

    def begin_all(self, tasks: Sequence[Task], *, lane: str, wire_lane: str, now_ms: int) -> None:
        """Attempts were sent, all to one lane."""
        held = self.held
        if tasks:
            self.outstanding[lane] = self.outstanding.get(lane, 0) + len(tasks)
        for task in tasks:
            key = (task.run, task.step)
            old = held.get(key)
            if old is not None:
                self._forget(key, old)
            held[key] = Lease(task.attempt, lane, wire_lane, now_ms)

    def end_all(self, results: Sequence[StepResult]) -> list[tuple[Lease, StepResult]]:
        """Results of these attempts were recorded or refused for good; return what they end."""
        held = self.held
        ended: list[tuple[Lease, StepResult]] = []
        lanes: dict[str, int] = {}
        for result in results:
            key = (result.run, result.step)
            lease = held.get(key)
            if lease is not None and lease.attempt == result.attempt:
                del held[key]
                lanes[lease.lane] = lanes.get(lease.lane, 0) + 1
                ended.append((lease, result))
        for lane, count in lanes.items():
            self._take_out(lane, count)
        return ended

    def _forget(self, key: tuple[str, int], lease: Lease) -> None:
        del self.held[key]
        self._take_out(lease.lane, 1)

    def _take_out(self, lane: str, count: int) -> None:
        left = self.outstanding[lane] - count
        if left:
            self.outstanding[lane] = left
        else:
            del self.outstanding[lane]

    def heard(self, heartbeat: WorkerHeartbeat, now_ms: int) -> None:
        """Renew what the worker holds; count what it should hold and does not list."""
        worker = f"{heartbeat.id}.{heartbeat.incarnation}"
        listed: set[tuple[str, int]] = set()
        for held in heartbeat.held.get(self.shard, ()):
            lease = self.held.get((held.run, held.step))
            if lease is not None and lease.attempt == held.attempt:
                lease.worker, lease.running, lease.absent = worker, held.running, 0
                lease.details = held.details
                listed.add((held.run, held.step))
                if not lease.lane:
                    # Adopted: it takes a slot of this worker, in whatever lane it was sent.
                    self._take_out("", 1)
                    lease.lane = f"@{heartbeat.id}"
                    self.outstanding[lease.lane] = self.outstanding.get(lease.lane, 0) + 1
        for key, lease in self.held.items():
            if lease.worker == worker and key not in listed:
                if not lease.absent:
                    lease.absent_ms = now_ms
                lease.absent += 1

    def lapsed(self, fleet: Fleet, now_ms: int) -> list[Loss]:
        """Take and return attempts whose holder is lost."""
        found: list[Loss] = []
        for key, lease in list(self.held.items()):
            reason = ""
            if lease.worker:
                if not fleet.is_live(lease.worker, now_ms):
                    reason = f"worker {lease.worker.partition('.')[0]} is lost"
                elif lease.absent > ABSENT_MAX and now_ms - lease.absent_ms >= ABSENT_MS:
                    reason = f"worker {lease.worker.partition('.')[0]} does not have it any more"
            elif lease.wire_lane.startswith("@"):
                name = lease.wire_lane[1:].rpartition("-")
                if not fleet.is_live(f"{name[0]}.{name[2]}", now_ms):
                    reason = f"worker {name[0]} is lost"
            if reason:
                self._forget(key, lease)
                found.append(Loss(*key, lease.attempt, lease.worker, reason))
        return found

    def suspects(self, *, before_ms: int) -> set[str]:
        """Return wire lanes of attempts sent before *before_ms* that nobody says to hold."""
        return {
            lease.wire_lane
            for lease in self.held.values()
            if not lease.worker and lease.prepared and lease.sent_ms < before_ms
        }

    def oldest_ms(self) -> int:
        """Return since when the attempt is out that was sent first; 0: none is."""
        return next(iter(self.held.values())).sent_ms if self.held else 0

    def uses(self, wire_lane: str) -> bool:
        """Tell whether anything is on its way in a lane, or may still come back from it."""
        return any(lease.wire_lane == wire_lane for lease in self.held.values())

    def in_doubt(self) -> list[tuple[str, int, int]]:
        """Return (run, step, attempt) of what was sent and nobody says to hold."""
        return [
            (*key, lease.attempt)
            for key, lease in self.held.items()
            if not lease.worker and lease.prepared
        ]

    def prepare(self, run: str, step: int, attempt: int) -> None:
        """Its inputs are being stored: nothing of it can be lost before it is sent (`sent`)."""
        lease = self.held.get((run, step))
        if lease is not None and lease.attempt == attempt:
            lease.prepared = False

    def sent(self, run: str, step: int, attempt: int, now_ms: int) -> bool:
        """What was prepared is sent now; False: it is not wanted any more."""
        lease = self.held.get((run, step))
        if lease is None or lease.attempt != attempt:
            return False
        lease.prepared, lease.sent_ms = True, now_ms
        return True

    def lose(self, run: str, step: int, attempt: int, reason: str) -> Loss | None:
        """Take an attempt that nobody holds; None: somebody does, or it has ended."""
        key = (run, step)
        lease = self.held.get(key)
        if lease is None or lease.worker or lease.attempt != attempt:
            return None
        self._forget(key, lease)
        return Loss(run, step, attempt, "", reason)

    def unheld(self, wire_lanes: Iterable[str], *, before_ms: int, reason: str) -> list[Loss]:
        """Take and return attempts of these lanes, sent before *before_ms*, held by nobody."""
        lanes = set(wire_lanes)
        found: list[Loss] = []
        for key, lease in list(self.held.items()):
            if (
                not lease.worker
                and lease.prepared
                and lease.sent_ms < before_ms
                and lease.wire_lane in lanes
            ):
                self._forget(key, lease)
                found.append(Loss(*key, lease.attempt, "", reason))
        return found
