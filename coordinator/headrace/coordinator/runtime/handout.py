"""Which ready steps a tick hands out, as far as the dispatch gives credit; and what is out."""

from __future__ import annotations

from headrace.coordinator.core import Loss, Machine, ShardState
from headrace.coordinator.core.fairness import weight_of
from headrace.coordinator.core.ready import Lane
from headrace.coordinator.runtime.intake import Taken
from headrace.coordinator.runtime.ports import Dispatch
from headrace.messages import Task


def gather(machine: Machine, dispatch: Dispatch) -> None:
    """Tell the broadcasts that may begin which workers there are."""
    for (run, instance), group in list(machine.gatherings.items()):
        workers = dispatch.members(*group)
        if workers is not None:
            machine.gather(run, instance, workers)
    machine.settle()


def schedule(machine: Machine, dispatch: Dispatch, tick: Taken) -> int:
    """Log as many ready steps as dispatched as there is credit; they are sent when that is in.

    Return how many.
    """
    ready = machine.ready
    if len(ready.filled) > 1 and dispatch.one_window and ready.is_shared():
        return _in_turns(machine, dispatch, tick)
    count = 0
    for name in list(ready.filled):
        lane = ready.lanes[name]
        credit, wire_lane = dispatch.credit(lane)
        if credit > 0:
            count += _send(
                dispatch, tick, lane, wire_lane, machine.schedule(name, credit, wire_lane)
            )
    return count


def _in_turns(machine: Machine, dispatch: Dispatch, tick: Taken) -> int:
    """Schedule lanes that take each other's room: one step at a time, to whose turn it is."""
    ready = machine.ready
    names = set(ready.filled)
    count = 0
    while names and (lane := ready.next_lane(names)) is not None:
        credit, wire_lane = dispatch.credit(lane)
        tasks = machine.schedule(lane.name, 1, wire_lane) if credit > 0 else []
        if not tasks:
            names.discard(lane.name)
            continue
        ready.turns.charge(lane.namespace, weight_of(machine.state, lane.namespace))
        count += _send(dispatch, tick, lane, wire_lane, tasks)
    ready.drop_empty()
    return count


def _send(dispatch: Dispatch, tick: Taken, lane: Lane, wire_lane: str, tasks: list[Task]) -> int:
    if tasks:
        dispatch.reserve(lane, len(tasks))
        known = tick.sends.setdefault((lane.name, wire_lane), (lane, wire_lane, tasks))
        if known[2] is not tasks:
            known[2].extend(tasks)
    return len(tasks)


def dispatched(state: ShardState) -> list[tuple[str, int, int, str]]:
    """Return (run, step as the wire knows it, attempt, lane) of every dispatched step; the lane is
    known by workers."""
    return [
        (run.key, run.wire(step), run.attempt[step], "")
        for run in state.runs.records()
        for step in run.tokens
    ]


def lose(loss: Loss, machine: Machine) -> None:
    """State a loss."""
    machine.lose(loss.run, loss.step, loss.attempt, worker=loss.worker, reason=loss.reason)
