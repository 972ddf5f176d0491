"""What the parts of a run's model share: its instances, and what each part asks of the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from headrace.plan import Node

if TYPE_CHECKING:
    from support.sim.oracle import ShardOracle
    from support.sim.world import World

PENDING, DISPATCHED, WAITING, RUNNING = "pending", "dispatched", "waiting", "running"
COMPLETED, FAILED, SKIPPED, CANCELLED, UNKNOWN = (
    "completed",
    "failed",
    "skipped",
    "cancelled",
    "unknown",
)
HELD = "held"
"""It has failed, or nobody knows; somebody decides."""
DORMANT = "dormant"
"""It runs only if somebody calls for it."""
GONE = "gone"
FINAL = {COMPLETED, FAILED, SKIPPED, CANCELLED, UNKNOWN, GONE}
STATES = {4: COMPLETED, 5: FAILED, 6: SKIPPED, 7: CANCELLED, 8: UNKNOWN}


class Instance:
    """A node of a run."""

    __slots__ = (
        "asked",
        "attempt",
        "called",
        "children",
        "claimed",
        "detached",
        "dormant",
        "due_ms",
        "grown",
        "handler",
        "index",
        "item",
        "key",
        "label",
        "licences",
        "lock",
        "missed",
        "needs",
        "node",
        "parent",
        "placed",
        "retry_ms",
        "signal",
        "state",
        "step",
        "token",
        "tolerated",
        "total",
        "until_ms",
    )

    def __init__(self, index: int, node: Node, parent: Instance | None) -> None:
        self.index, self.node, self.parent = index, node, parent
        self.children: list[Instance] = []
        self.dormant: list[Instance] = []
        """Beside its children: what they may call for."""
        self.needs: list[Instance] = []
        asleep = node.dormant or (parent is not None and parent.state == DORMANT)
        self.state = DORMANT if asleep else PENDING
        self.attempt = self.token = 0
        self.due_ms = self.retry_ms = 0
        self.licences = 1
        """How often an at-most-once step may begin: once, and again when somebody has said so, or
        when what it did was undone."""
        self.claimed = self.tolerated = self.detached = False
        self.called = False
        self.grown = 0
        """Of a loop's body: which iteration it is, from 1; else 0."""
        self.item: Any = None
        self.label = ""
        """Of a loop's body: what it is for, and how it is called."""
        self.total = 0
        """Of a loop: how many there are to be."""
        self.key = self.signal = ""
        self.asked: tuple[str, str, str] | None = None
        """(gate, key, under what name) of what it waits for before it begins."""
        self.lock = self.placed = ""
        """The lock that it holds, and the rate limit within which it has a place."""
        self.until_ms = 0
        """When the lock expires; 0: never."""
        self.missed = False
        """No result of it is cached."""
        self.handler = -1
        """Who decides about it while it is held; -1: a person."""
        self.step: Instance | None = None
        """Whom it was called for."""

    @property
    def open(self) -> bool:
        """Children may begin."""
        return self.state == RUNNING or self.detached

    @property
    def path(self) -> str:
        """Its name for people."""
        if self.parent is None:
            return ""
        if self.grown:
            return f"{self.parent.path}[{self.label}]"
        above = self.parent.path
        return f"{above}/{self.node.name}" if above else self.node.name


class Model:
    """What the parts of `RunModel` may ask of it."""

    world: World
    shard: ShardOracle
    key: str
    digest: str
    """Of its plan."""
    instances: list[Instance]
    cancelling: bool
    state: str
    events: int
    time_ms: int
    own: Instance
    """The run itself, as far as it waits for something before it begins."""

    def fault(self, text: str) -> None:
        """Report a broken rule."""
        raise NotImplementedError

    def request(self, request: str) -> None:
        """A request takes effect."""
        raise NotImplementedError

    def finish(self, found: Instance, state: str) -> None:
        """An instance has its final state."""
        raise NotImplementedError

    def close(self, container: Instance) -> None:
        """Nothing below begins any more; what is dispatched may still end."""
        raise NotImplementedError

    def may_begin(self, found: Instance) -> None:
        """Check that what is before and around it lets it begin."""
        raise NotImplementedError

    def check_join(self, found: Instance, state: str) -> None:
        """Check that a container may have this state."""
        raise NotImplementedError

    def drop(self, found: Instance) -> None:
        """It holds nothing any more, and waits for nothing."""
        raise NotImplementedError

    def note_completed(self, step: Instance) -> None:
        """A step has completed: perhaps it is undone some day."""
        raise NotImplementedError

    def grow(self, first: int, loop: Instance | None) -> Instance:
        """Add instances for the plan's nodes from *first* on; return the outermost."""
        raise NotImplementedError

    def node_index(self, found: Instance) -> int:
        """Return the number of an instance's node."""
        raise NotImplementedError

    def wire(self, found: Instance) -> int:
        """Return the number by which others know an instance."""
        raise NotImplementedError

    def check_children_ended(self, group: Instance) -> None:
        """Check that no child run below a group runs."""
        raise NotImplementedError

    def is_below(self, found: Instance | None, container: Instance) -> bool:
        """Tell whether *found* is *container*, or below it."""
        while found is not None and found is not container:
            found = found.parent
        return found is container

    def below(self, container: Instance) -> Iterator[Instance]:
        """Return all instances below a container, those of earlier rounds included."""
        return (at for at in self.instances if at is not container and self.is_below(at, container))
