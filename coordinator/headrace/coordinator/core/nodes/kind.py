"""What a kind of node is to the engine: the one shape that each of them fills."""

from __future__ import annotations

from headrace.coordinator.core.facts import Facts
from headrace.coordinator.core.state import Run, ShardState
from headrace.coordinator.core.tick import Tick
from headrace.messages import WaitReason


class NodeKind:
    """How the nodes of one kind behave. One stateless object a kind, in the table of `nodes`.

    What is the same for all kinds (conditions, needs, timeouts, failing, cancelling) is not here.
    """

    name: str
    """As people see it."""

    def start(self, tick: Tick, run: Run, instance: int, node: int) -> None:
        """Begin: its needs have ended, and it is wanted. A `HeadraceError` fails the node."""
        raise NotImplementedError

    def child_ended(self, tick: Tick, run: Run, instance: int) -> None:
        """A running container is to be looked at: children have ended, or there are none."""
        raise AssertionError(f"a {self.name} has no children")

    def due(self, tick: Tick, run: Run, instance: int) -> None:
        """The time has come that a WAITING instance waited for."""

    def why(self, state: ShardState, run: Run, instance: int, facts: Facts) -> WaitReason | None:
        """Return what an instance that has not ended waits for; None: for other nodes."""
        return None


def held_reason(run: Run, instance: int) -> WaitReason:
    """Say who decides about a step whose end is open."""
    path, handler = run.path(instance), run.held[instance]
    error = run.errors.get(instance)
    what = f"{error.type}: {error.message}"[:200] if error is not None else "it has failed"
    if handler >= 0:
        return WaitReason(
            path=path,
            state="WAITING",
            owner="handler",
            reason=f"{what}; {run.path(handler)} decides what follows",
        )
    name = run.key.partition("/")[2]
    return WaitReason(
        path=path,
        state="UNKNOWN",
        owner="person",
        reason=(
            f"attempt {run.attempt[instance]}: {what}; find out what became of it, then "
            f"`flowctl resolve {name} {path} --completed | --failed | --retry`"
        ),
    )
