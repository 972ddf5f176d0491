"""Whether a shard's owner takes new runs, or has more to do already than it can.

What waits for workers may wait: it is kept, and costs nothing meanwhile. What waits for the owner
itself only makes everything later, and each further run takes time from those that were taken. So
new runs are turned away, with an answer that costs next to nothing, as soon as either

- more steps are ready, though workers stand idle, and more new runs are in its inbox, than it has
  lately handed out steps in the time that a step may wait for it: a limit on the queue in units of
  time, as Controlled Delay (RFC 8289) has it, and told by its length, since its age is known only
  when it is too late; or
- its inbox has not been empty for that time: a standing queue, in the sense of the same source.

A trickle is always taken: one wide run must not lock everybody else out. Results, signals, claims
and questions are never turned away here. Pure: the time comes in.
"""

from __future__ import annotations

from headrace.coordinator.core import Machine, Refusal
from headrace.coordinator.core.ready import ReadyQueue
from headrace.coordinator.runtime.inbox import Inbox, PendingBatch, reply_of
from headrace.coordinator.runtime.ports import Dispatch
from headrace.messages import ClientRequest, SubmitRun, subjects

STEPS_MIN = 2_000
"""So many steps may wait for an owner that nothing is known of."""
TRICKLE_PER_S = 100
"""Runs that are always taken."""
LOOK_S = 0.02
"""So often the queue is looked at."""
WINDOW_S = 0.25
"""Over which steps are counted; from one to the next the best rate fades to nine tenths."""
FADE = 0.9
RETRY_MS_MIN, RETRY_MS_MAX = 100, 2_000


class Admission:
    """One owner's."""

    def __init__(self, shard: int, backlog_ms: int, *, steps_min: int = STEPS_MIN) -> None:
        """*backlog_ms*: so long a step may wait for the owner; 0: everything is taken."""
        self._shard, self._backlog_s, self._steps_min = shard, backlog_ms / 1_000, steps_min
        self.limits = backlog_ms > 0
        """Whether anything is ever turned away."""
        self._handed = 0
        self._counted_s = self._looked_s = self._poured_s = 0.0
        self._per_s = 0.0
        """Steps that were handed out in a second, lately, at best."""
        self._waiting = 0
        self._trickle = float(TRICKLE_PER_S)

    def look(self, ready: ReadyQueue, dispatch: Dispatch, handed: int, now_s: float) -> None:
        """A tick has handed out so many steps, and these are left."""
        self._handed += handed
        if not self._backlog_s or now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        passed_s = now_s - self._counted_s
        if passed_s >= WINDOW_S:
            faded = self._per_s * FADE ** (passed_s / WINDOW_S)
            self._per_s = max(self._handed / passed_s, faded)
            self._handed, self._counted_s = 0, now_s
        lanes = [ready.lanes[name] for name in ready.filled]
        self._waiting = 0
        if sum(lane.length for lane in lanes) > self._steps_min:
            self._waiting = sum(lane.length for lane in lanes if dispatch.stands_idle(lane))

    def admit(self, batch: PendingBatch, machine: Machine, inbox: Inbox) -> int:
        """Answer those new runs of *batch* with `busy` that are too many; return how many.

        A submit that is sent again is let through: it is to hear what became of the first.
        """
        if not self._backlog_s:
            return 0
        requests = batch.requests
        new = [index for index, request in enumerate(requests) if type(request) is SubmitRun]
        batch.new_runs = len(new)
        room = self._room(inbox)
        if len(new) <= room:
            return 0
        runs, space = machine.state.runs, batch.namespace
        known = {i for i in new if subjects.run_key(space, _run_of(requests[i])) in runs}
        away = [index for index in new if index not in known][max(int(room), 0) :]
        away = away[self._trickle_of(len(away), inbox.now_s()) :]
        if not away:
            return 0
        reply = reply_of(self._refusal(inbox))
        for index in away:
            batch.answer(index, reply)
            requests[index] = None
        batch.new_runs -= len(away)
        return len(away)

    def _room(self, inbox: Inbox) -> float:
        """Return how many more steps may wait for the owner."""
        if inbox.standing_s > self._backlog_s:
            return 0
        return self._steps_max - self._waiting - inbox.new_runs

    @property
    def _steps_max(self) -> float:
        return max(self._steps_min, self._per_s * self._backlog_s)

    def _trickle_of(self, wanted: int, now_s: float) -> int:
        poured = self._trickle + (now_s - self._poured_s) * TRICKLE_PER_S
        self._trickle, self._poured_s = min(poured, float(TRICKLE_PER_S)), now_s
        taken = min(wanted, int(self._trickle))
        self._trickle -= taken
        return taken

    def _refusal(self, inbox: Inbox) -> Refusal:
        ahead = self._waiting + inbox.new_runs
        left_s = (ahead - self._steps_max / 2) / max(self._per_s, self._steps_min)
        retry_ms = int(max(left_s, inbox.standing_s) * 1_000)
        return Refusal(
            "busy",
            f"shard {self._shard} is offered more than it can do: {self._waiting} steps and "
            f"{inbox.new_runs} new runs wait for its coordinator, not for workers; "
            "this run was not started",
            min(max(retry_ms, RETRY_MS_MIN), RETRY_MS_MAX),
        )


def _run_of(request: ClientRequest | None) -> str:
    assert type(request) is SubmitRun
    return request.run
