"""Runs that only wait (for a time, a signal, a child, a key) are parked: held as encoded bytes.

A million of them are then one dictionary of bytes: a sixth of the memory of records, and nothing
that a garbage collection walks through. `Runs` brings one back on the first thing that anybody
wants of it. Parked or not is no part of the state: the bytes are those of a snapshot, the hash is
the same, and each replica parks when it likes.

Nothing here is done in a tick: whoever has a state calls `sweep` between two of them.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from headrace.coordinator.core import status
from headrace.coordinator.core.runs import condition
from headrace.coordinator.core.snapshot import decode_run, encode_run
from headrace.coordinator.core.state import Run, ShardState


class Policy(NamedTuple):
    """When runs are parked."""

    free: int = 2_000
    """So many records are left alone: a small shard parks nothing."""
    round_ms: int = 2_000
    """A run that has had no event from one round to the next is parked: after 2 to 4 s."""
    near_ms: int = 5_000
    """One whose next timer is due within this time is not worth the trouble."""
    visits: int = 2_000
    """Records that one call looks at: some 0.3 ms."""
    parks: int = 100
    """Runs that one call parks: some 2 ms."""
    history_bytes: int = 256 * 1024
    """A run with a longer history is left to the archive first."""


def only_waits(run: Run) -> bool:
    """Tell whether *run*, between two ticks, has nothing to do before something comes.

    Rather no than yes: whatever is held elsewhere by more than the run's key (a worker's task, a
    lock, a job's workspace) keeps it at hand.
    """
    if run.paused or run.cancelling or run.quarantined or run.gates or run.node_keys:
        return False
    if run.journal is not None and (run.journal.blocked is not None or run.journal.asked):
        return False
    if run.state == status.PENDING:
        return bool(run.key_name) and not run.key_held
    if (
        run.state != status.RUNNING
        or run.tokens
        or run.doomed
        or run.claims
        or run.held
        or run.handlers
        or run.sagas
        or run.detached
        or run.program.broadcasts
        or any(job.worker for job in run.jobs.values())
    ):
        return False
    instances = run.status
    if status.WAITING not in instances and not (run.family and run.family.awaited):
        return False
    at = instances.find(status.PENDING)
    while at >= 0:
        if not run.waiting[at] and run.may_begin(at):
            return False
        at = instances.find(status.PENDING, at + 1)
    return True


def park(state: ShardState, run: Run) -> None:
    """Park *run*, of which `only_waits` is true."""
    runs = state.runs
    runs.restore = runs.restore or partial(decode_run, state)
    runs.park(run.key, encode_run(run), condition(run.state, run.status))
    # An old entry of a ready queue may still name this record: nothing of it is ever ready.
    run.state = status.PENDING


def park_all(state: ShardState) -> int:
    """Park every run that only waits, at once; return how many. For tests and tools."""
    found = [run for run in state.runs.records() if only_waits(run)]
    for run in found:
        park(state, run)
    return len(found)


class Parking:
    """One state's: goes round its records, a few at a time."""

    def __init__(self, state: ShardState, policy: Policy | None = None) -> None:
        self._state, self._policy = state, policy or Policy()
        self._left: list[str] = []
        """Keys that this round has not come to yet."""
        self._before: dict[str, int] = {}
        """What the last round found of runs that may wait: how many events they had."""
        self._found: dict[str, int] = {}
        self._next_ms = 0

    def sweep(self, now_ms: int) -> bool:
        """Look at some records; return whether there is more to do at once.

        To be called between two ticks, while no snapshot is being made (a `Capture` has records in
        hand). Whether the last tick is in the log does not matter.
        """
        policy, runs = self._policy, self._state.runs
        if self._state.agenda or runs.at_hand <= policy.free:
            return False
        if not self._left:
            if now_ms < self._next_ms:
                return False
            self._next_ms = now_ms + policy.round_ms
            self._left = runs.keys_at_hand()
            self._before, self._found = self._found, {}
        parked = 0
        for _ in range(min(policy.visits, len(self._left))):
            run = runs.record(self._left.pop())
            if run is None or run.tokens:
                continue
            if self._before.get(run.key) != run.events:
                self._found[run.key] = run.events
            elif self._is_worth_it(run, now_ms):
                park(self._state, run)
                parked += 1
                if parked == policy.parks:
                    break
            else:
                self._found[run.key] = run.events
        return bool(self._left)

    def _is_worth_it(self, run: Run, now_ms: int) -> bool:
        policy = self._policy
        if run.history_bytes > policy.history_bytes:
            return False
        if run.due and min(run.due.values()) < now_ms + policy.near_ms:
            return False
        return only_waits(run)
