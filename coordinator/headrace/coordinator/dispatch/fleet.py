"""Live workers, as their heartbeats tell. Pure: the time of each heartbeat comes in."""

from __future__ import annotations

from headrace.messages import WorkerHeartbeat


class WorkerRecord:
    """One life of one worker."""

    __slots__ = ("capabilities", "first_seen_ms", "heartbeat", "last_seen_ms")

    def __init__(self, heartbeat: WorkerHeartbeat, now_ms: int) -> None:
        self.heartbeat = heartbeat
        self.capabilities = offered(heartbeat)
        self.first_seen_ms = self.last_seen_ms = now_ms

    @property
    def name(self) -> str:
        """``<id>.<incarnation>``."""
        return f"{self.heartbeat.id}.{self.heartbeat.incarnation}"

    def offers(self, needed: tuple[str, ...]) -> bool:
        """Tell whether it offers all that is *needed*."""
        return {label.lower() for label in needed} <= self.capabilities


def offered(heartbeat: WorkerHeartbeat) -> frozenset[str]:
    """Return what a worker offers, in lower case; a custom handler is ``uses:<name>``."""
    labels = {label.lower() for label in heartbeat.capabilities}
    labels.update(f"uses:{name}".lower() for name in heartbeat.handlers)
    return frozenset(labels)


class Fleet:
    """The newest life of each worker that was heard lately. Times: see `Leases`.

    While the observer itself was cut off, and for one lease after, nobody counts as lost: it is
    the observer that did not hear (`blind_until`).
    """

    def __init__(self, lease_ms: int) -> None:
        self.lease_ms = lease_ms
        self.workers: dict[str, WorkerRecord] = {}
        self.version = 0
        """Changes whenever who is there, or what they offer, changes."""
        self._blind_until_ms = 0

    def blind_until(self, now_ms: int) -> None:
        """The observer was cut off until now: no lease lapses for one lease from now."""
        self._blind_until_ms = max(self._blind_until_ms, now_ms + self.lease_ms)

    def is_blind(self, now_ms: int) -> bool:
        """Tell whether silence means nothing (yet)."""
        return now_ms < self._blind_until_ms

    def heard(self, heartbeat: WorkerHeartbeat, now_ms: int) -> bool:
        """Take a heartbeat; return False for one of a life that is over."""
        known = self.workers.get(heartbeat.id)
        if known is not None and known.heartbeat.incarnation != heartbeat.incarnation:
            if heartbeat.started_ms < known.heartbeat.started_ms:
                return False
            known = None
        if heartbeat.stopped:
            if self.workers.pop(heartbeat.id, None) is not None:
                self.version += 1
            return True
        if known is None:
            self.workers[heartbeat.id] = WorkerRecord(heartbeat, now_ms)
            self.version += 1
            return True
        before = known.heartbeat
        known.heartbeat, known.last_seen_ms = heartbeat, now_ms
        if (
            before.draining != heartbeat.draining
            or before.slots != heartbeat.slots
            or before.capabilities != heartbeat.capabilities
            or before.handlers.keys() != heartbeat.handlers.keys()
        ):
            known.capabilities = offered(heartbeat)
            self.version += 1
        return True

    def is_live(self, name: str, now_ms: int) -> bool:
        """Tell whether the life ``<id>.<incarnation>`` counts as alive."""
        record = self.workers.get(name.partition(".")[0])
        if record is None:
            # Never heard, or said goodbye: unknown lives get the benefit while we are blind.
            return self.is_blind(now_ms)
        if record.name != name:
            return False
        return self._fresh(record, now_ms)

    def _fresh(self, record: WorkerRecord, now_ms: int) -> bool:
        return now_ms - record.last_seen_ms <= self.lease_ms or self.is_blind(now_ms)

    def expire(self, now_ms: int) -> list[WorkerRecord]:
        """Drop and return workers whose lease has lapsed."""
        lapsed = [r for r in self.workers.values() if not self._fresh(r, now_ms)]
        for record in lapsed:
            del self.workers[record.heartbeat.id]
            self.version += 1
        return lapsed

    def able(self, namespace: str, capabilities: tuple[str, ...]) -> list[WorkerRecord]:
        """Return workers of *namespace* that offer all *capabilities* and take new tasks."""
        wanted = {label.lower() for label in capabilities}
        return [
            record
            for record in self.workers.values()
            if record.heartbeat.namespace == namespace
            and not record.heartbeat.draining
            and wanted <= record.capabilities
        ]

    def missing(self, namespace: str, capabilities: tuple[str, ...]) -> list[str]:
        """Return the labels that no worker of *namespace* offers."""
        there = [r for r in self.workers.values() if r.heartbeat.namespace == namespace]
        return [
            label
            for label in capabilities
            if not any(label.lower() in record.capabilities for record in there)
        ]
