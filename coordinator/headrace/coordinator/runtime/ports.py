"""What a shard's owner needs of the world, as small protocols: the embedded engine, the cluster
and the simulator each bring their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from headrace.coordinator.core import Facts, Loss, Order, Outgoing
from headrace.coordinator.core.ready import Lane
from headrace.messages import StepResult, Task, TurnWake


class Dispatch(Protocol):
    """Workers, as one shard's owner sees them."""

    @property
    def one_window(self) -> bool:
        """Whether lanes of different namespaces take each other's room."""
        ...

    def credit(self, lane: Lane) -> tuple[int, str]:
        """Return how many steps of *lane* may be dispatched now, and the lane's wire name."""
        ...

    def stands_idle(self, lane: Lane) -> bool:
        """Tell whether workers that serve *lane* are mostly idle: its steps wait for us."""
        ...

    def members(
        self, namespace: str, capabilities: tuple[str, ...]
    ) -> list[tuple[str, str]] | None:
        """Return (id, incarnation) of all live workers that offer these and take new tasks.

        None: that is not known for sure now, as somebody may not have been heard yet.
        """
        ...

    def reserve(self, lane: Lane, count: int) -> None:
        """So many steps are being logged as dispatched: they count against credit from now on."""
        ...

    def send(self, epoch: int, lane: Lane, wire_lane: str, tasks: Sequence[Task]) -> None:
        """Dispatch logged tasks; from now on their leases count."""
        ...

    def recorded(self, results: Sequence[StepResult]) -> None:
        """These attempts are over: their leases end."""
        ...

    def order(self, order: Order) -> None:
        """Tell whoever holds a step to stop it."""
        ...

    def tell_turn(self, namespace: str, wake: TurnWake) -> None:
        """Tell the worker that has a workflow function's turn that there is news; once."""
        ...

    def adopt(self, epoch: int, dispatched: Sequence[tuple[str, int, int, str]]) -> None:
        """A new ownership: (run, step, attempt, wire lane) of what its predecessor dispatched."""
        ...

    def lapsed(self, now_ms: int) -> list[Loss]:
        """Return attempts whose lease has lapsed; each is told once."""
        ...

    def gone(self, now_ms: int) -> list[tuple[str, str]]:
        """Return (worker id, reason) of workers that will not come back; each is told once."""
        ...

    def facts(self) -> Facts:
        """Return what `explain` and views need to know."""
        ...


class Peers(Protocol):
    """Owners of other shards."""

    def send(self, outgoing: Outgoing, logged: Callable[[str], None]) -> None:
        """Deliver an outbox message; call *logged* with its id once the target has it in its log.

        May be lost: the owner sends again what is not cleared.
        """
        ...


class NoPeers:
    """For a single shard."""

    def send(self, outgoing: Outgoing, logged: Callable[[str], None]) -> None:
        """There are no other shards."""
        raise AssertionError(f"message {outgoing.message} for shard {outgoing.shard}")
