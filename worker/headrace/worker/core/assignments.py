"""What this worker has in hands: queued and running attempts, and which messages to drop.

Rules that live here and nowhere else:

- a message of an epoch lower than the highest seen for its shard, or of a lower round of that
  epoch, is dropped;
- an attempt is held once, however often it arrives; the same attempt under a higher token means
  that a new owner dispatched it again without knowing: the token is taken over, the work goes on;
- a dispatch that was taken before (same token) is dropped, also after it has ended;
- a higher attempt replaces a queued lower one, and waits for a running one to die.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from headrace.messages import Task

RECENT_MAX: Final = 16_384
"""Dispatches remembered after they ended, against redelivery by the broker."""


class Origin(msgspec.Struct, frozen=True):
    """Where a task came from, and so where its result goes."""

    shard: int
    namespace: str
    epoch: int = 0
    pinned: bool = False
    """Meant for this life of this worker alone: handing it back would bring it again."""


class Stop(msgspec.Struct, frozen=True):
    """Why a running attempt is being stopped."""

    kind: str
    """`cancel`, `timeout` (of the attempt or its heartbeat), `superseded` or `shutdown`."""
    message: str = ""


class Admission:
    """Answers of `Assignments.admit`."""

    QUEUED: Final = 0
    DUPLICATE: Final = 1
    """Held or done already; nothing to do."""
    ADOPTED: Final = 2
    """Held already under a lower token, which is replaced."""
    FOLLOWS: Final = 3
    """A lower attempt of the step runs: stop it; this one starts when it is dead."""
    FULL: Final = 4
    """No room: hand it back."""


class Assignment(msgspec.Struct, eq=False):
    """One attempt that this worker holds, itself and no other. `work` belongs to the shell."""

    task: Task
    origin: Origin
    taken_ms: int
    token: int
    """The newest one that it was dispatched under; at first the task's."""
    started_ms: int = 0
    running: bool = False
    stop: Stop | None = None
    follower: Assignment | None = None
    details: msgspec.Raw | None = None
    """Of its last heartbeat that had any."""
    beat_ms: int = 0
    work: Any = None

    def said(self) -> Any:
        """Return the details of its last heartbeat that had any, as plain data."""
        return None if self.details is None else msgspec.msgpack.decode(self.details)


class Assignments:
    """All that is held, bounded by `slots` running and `queue_max` waiting."""

    def __init__(self, *, slots: int, queue_max: int) -> None:
        self.slots = slots
        self.queue_max = queue_max
        self.running = 0
        """Attempts that occupy a slot now."""
        self.epochs: dict[int, int] = {}
        self.rounds: dict[int, int] = {}
        """By shard, the highest round seen of its highest epoch; without those that are 0."""
        self.held: dict[tuple[str, int], Assignment] = {}
        """By run and step, all that is in hands."""
        self.queue: deque[Assignment] = deque()
        """Those that wait for a slot."""
        self._recent: set[tuple[str, int, int, int]] = set()
        self._recent_order: deque[tuple[str, int, int, int]] = deque()

    def __len__(self) -> int:
        return len(self.held)

    def __iter__(self) -> Iterator[Assignment]:
        return iter(self.held.values())

    @property
    def queued(self) -> int:
        """Attempts that wait for a slot."""
        return len(self.queue)

    @property
    def free(self) -> int:
        """Slots that neither run anything nor have anything waiting for them."""
        return max(0, self.slots - self.running - len(self.queue))

    def get(self, run: str, step: int) -> Assignment | None:
        """Return what is held of a step."""
        return self.held.get((run, step))

    def note_epoch(self, shard: int, epoch: int, round: int = 0) -> bool:
        """Remember an owner's *epoch* and *round*; False: higher ones are known, drop the message.

        A lower round of a higher epoch is higher.
        """
        known = self.epochs.get(shard, -1)
        if epoch == known:
            seen = self.rounds.get(shard, 0)
            if round > seen:
                self.rounds[shard] = round
            return round >= seen
        if epoch < known:
            return False
        self.epochs[shard] = epoch
        if round:
            self.rounds[shard] = round
        else:
            self.rounds.pop(shard, None)
        return True

    def admit(self, task: Task, origin: Origin, now_ms: int) -> int:
        """Take *task* into the queue, or say why not (`Admission`)."""
        identity = (task.run, task.step, task.attempt, task.token)
        if identity in self._recent:
            return Admission.DUPLICATE
        current = self.held.get((task.run, task.step))
        if current is not None:
            new = Assignment(task, origin, now_ms, task.token)
            return self._admit_again(current, new, identity)
        if len(self.queue) >= self.queue_max:
            return Admission.FULL
        self._remember(identity)
        assignment = Assignment(task, origin, now_ms, task.token)
        self.held[(task.run, task.step)] = assignment
        self.queue.append(assignment)
        return Admission.QUEUED

    def _admit_again(
        self, current: Assignment, new: Assignment, identity: tuple[str, int, int, int]
    ) -> int:
        # Also what is out of date: it must not run when the newer one has gone.
        self._remember(identity)
        newest = current.follower or current
        if (new.task.attempt, new.token) < (newest.task.attempt, newest.token):
            return Admission.DUPLICATE
        if new.task.attempt == newest.task.attempt:
            newest.token, newest.origin = new.token, new.origin
            return Admission.ADOPTED
        if current.running:
            current.follower = new
            return Admission.FOLLOWS
        # Its place in the queue stays; the owner has given the lower attempt up.
        self.queue[self.queue.index(current)] = new
        self.held[(new.task.run, new.task.step)] = new
        return Admission.QUEUED

    def next(self) -> Assignment | None:
        """Take the next waiting attempt if a slot is free; mark it running with `occupy`."""
        if self.queue and self.running < self.slots:
            return self.queue.popleft()
        return None

    def occupy(self, assignment: Assignment) -> None:
        """Count *assignment* against the slots, until `release`."""
        assignment.running = True
        self.running += 1

    def release(self, assignment: Assignment) -> None:
        """Forget *assignment*, which has ended; its follower joins the queue."""
        if assignment.running:
            self.running -= 1
            assignment.running = False
        task = assignment.task
        del self.held[(task.run, task.step)]
        follower = assignment.follower
        if follower is not None:
            self.held[(task.run, task.step)] = follower
            self.queue.append(follower)

    def withdraw(self, assignment: Assignment) -> bool:
        """Take a waiting attempt out; False when it has left the queue already."""
        if assignment not in self.queue:
            return False
        self.queue.remove(assignment)
        self.release(assignment)
        return True

    def overdue(self, *, now_ms: int, limit_ms: int) -> list[Assignment]:
        """Take out what has waited for a slot over *limit_ms* and others may run sooner."""
        found = [
            assignment
            for assignment in self.queue
            if now_ms - assignment.taken_ms > limit_ms and not assignment.origin.pinned
        ]
        for assignment in found:
            self.withdraw(assignment)
        return found

    def withdraw_all(self) -> list[Assignment]:
        """Take every attempt out that has not been started (the followers, too)."""
        waiting = list(self.queue)
        self.queue.clear()
        for assignment in waiting:
            self.release(assignment)
        for assignment in self.held.values():
            if assignment.follower is not None:
                waiting.append(assignment.follower)
                assignment.follower = None
        return waiting

    def forget(self, returned: Iterable[Assignment]) -> None:
        """Drop what was handed back from the memory of dispatches: it may come again."""
        for assignment in returned:
            task = assignment.task
            self._recent.discard((task.run, task.step, task.attempt, task.token))

    def _remember(self, identity: tuple[str, int, int, int]) -> None:
        self._recent.add(identity)
        self._recent_order.append(identity)
        if len(self._recent_order) > RECENT_MAX:
            self._recent.discard(self._recent_order.popleft())
