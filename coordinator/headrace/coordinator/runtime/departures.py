"""What leaves with a tick, once it is in the log: answers, tasks, orders, news for other shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headrace.coordinator.core import Machine, TickEffects
from headrace.coordinator.runtime.answers import Answers, EndView
from headrace.coordinator.runtime.archiver import Archiver, Post
from headrace.coordinator.runtime.intake import Taken
from headrace.coordinator.runtime.ports import Dispatch, Peers
from headrace.coordinator.runtime.snapshots import Snapshots
from headrace.coordinator.runtime.watch import Watch
from headrace.coordinator.runtime.writer import Writer
from headrace.telemetry import Clock


class Departures:
    """One owner's."""

    def __init__(
        self,
        dispatch: Dispatch,
        peers: Peers,
        archiver: Archiver,
        snapshots: Snapshots,
        answers: Answers,
        writer: Writer,
        watch: Watch,
        clock: Clock,
    ) -> None:
        self._dispatch, self._peers, self._archiver = dispatch, peers, archiver
        self._snapshots, self._answers, self._writer = snapshots, answers, writer
        self._watch, self._clock = watch, clock
        self.post: Post
        """Runs a function in a coming tick."""
        self.observe: Callable[[TickEffects], None] | None = None
        """Told of each tick that wanted something done, when that is done."""

    def leave(
        self,
        machine: Machine,
        tick: Taken,
        effects: TickEffects | None,
        views: Sequence[EndView],
    ) -> None:
        """Answer, hand out tasks, and act. *views*: see `Answers.views`."""
        for respond, arguments in tick.replies:
            respond(*arguments)
        if tick.sends:
            self.hand_out(tick)
        if self._watch.active:
            passed_s = self._clock.monotonic() - tick.started_s
            self._watch.concluded(len(tick.items), passed_s)
        if effects is not None:
            self.act(machine, effects, views)
            if self.observe is not None:
                self.observe(effects)

    def hand_out(self, tick: Taken) -> None:
        """Hand out the tasks of *tick*, once."""
        sends, tick.sends = tick.sends, {}
        for lane, wire_lane, tasks in sends.values():
            self._dispatch.send(self._writer.epoch, lane, wire_lane, tasks)

    def act(self, machine: Machine, effects: TickEffects, views: Sequence[EndView]) -> None:
        """Do what a tick wants done."""
        for order in effects.orders:
            self._dispatch.order(order)
        for namespace, wake in effects.wakes:
            self._dispatch.tell_turn(namespace, wake)
        for outgoing in effects.outgoing:
            self._peers.send(outgoing, self._outbox_logged)
        if effects.ended:
            self._archiver.add(effects.ended)
        if views:
            self._answers.ended(views)
        if effects.long:
            self._archiver.look_at(machine.state.runs, effects.long)
        self._snapshots.touches += effects.changed

    def _outbox_logged(self, message: str) -> None:
        self.post(lambda machine: machine.clear_outbox([message]))
