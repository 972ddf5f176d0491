"""State of a shard: runs, plans, keys, the outbox, what is remembered of requests.

Plain mutable records, because they are the hot path; `evolve` alone changes them. Everything
that can be derived (ready queues, timer heaps, leases) is kept elsewhere, by the leader only.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from heapq import heappush
from typing import Any, NamedTuple

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.gate import Gate
from headrace.coordinator.core.incoming import Incoming
from headrace.coordinator.core.journal import Journal
from headrace.coordinator.core.kept_results import KeptResults
from headrace.coordinator.core.key_record import KeyRecord
from headrace.coordinator.core.program import Program
from headrace.coordinator.core.renumbering import Patches
from headrace.coordinator.core.runs import Runs
from headrace.coordinator.core.saga import Saga
from headrace.coordinator.core.scopes import Counts, Scope
from headrace.coordinator.core.triggers import Definition, Schedule
from headrace.messages import StepError
from headrace.plan import decode_plan

EMPTY_MAP = b"\x80"
"""msgpack of an empty map: what most outputs are."""
UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What msgspec raises for bytes that it cannot decode."""
IDLE_PLANS_MAX = 256
"""Plans kept although no live run names them."""


class Job:
    """A group with affinity: where its workspace is, and what its steps have added to `env`."""

    __slots__ = ("env", "first", "path", "restarts", "worker")

    def __init__(self) -> None:
        self.worker = ""
        """``<id>.<incarnation>`` of the worker that has the workspace; empty: none yet."""
        self.restarts = 0
        self.first = -1
        """Step in flight that will decide the worker."""
        self.env: dict[str, str] = {}
        self.path: list[str] = []


class Family:
    """Runs that a run has begun, and the one that has begun it."""

    __slots__ = ("awaited", "children", "parent", "parent_shard", "stopping")

    def __init__(self, parent: str = "", parent_shard: int = -1) -> None:
        self.parent, self.parent_shard = parent, parent_shard
        """``<run key>#<instance>.<attempt>``, and the shard to be told of the end (-1: none)."""
        self.children: dict[int, str] = {}
        """Instance -> id of the last run that it has begun."""
        self.awaited: set[int] = set()
        """Instances whose child has not ended."""
        self.stopping: dict[str, int] = {}
        """``<run key>#<instance>.<attempt>`` of children that were cancelled -> instance, until
        they have ended."""


class Signal(NamedTuple):
    """A signal that no wait has taken yet."""

    name: str
    payload: bytes
    actor: str
    time_ms: int


class Run:
    """One live run."""

    __slots__ = (
        "active",
        "actor",
        "attempt",
        "cancel_reason",
        "cancelling",
        "carried",
        "claims",
        "counts",
        "created_ms",
        "detached",
        "doomed",
        "due",
        "ended_reason",
        "errors",
        "events",
        "explicit",
        "failing",
        "fair_key",
        "fair_weight",
        "family",
        "fingerprint",
        "finished_ms",
        "first_ms",
        "gates",
        "handlers",
        "held",
        "history",
        "history_bytes",
        "history_first",
        "input",
        "iterations",
        "jobs",
        "journal",
        "key",
        "key_held",
        "key_limit",
        "key_mode",
        "key_name",
        "labels",
        "losses",
        "node_keys",
        "not_after_ms",
        "output",
        "outputs",
        "patches",
        "pause_reason",
        "paused",
        "priority",
        "program",
        "quarantined",
        "request_id",
        "rerun_of",
        "rounds",
        "sagas",
        "scope_bases",
        "scopes",
        "signals",
        "started_ms",
        "state",
        "status",
        "sticky",
        "stopped",
        "taint",
        "title",
        "tokens",
        "tolerated",
        "uncompensated",
        "uncounted",
        "undo",
        "variables",
        "waiting",
        "waits",
        "workflow",
    )

    def __init__(self, key: str, program: Program) -> None:
        self.key = key
        self.program = program
        self.workflow = program.plan.name
        self.state = status.PENDING
        self.created_ms = self.started_ms = self.finished_ms = 0
        self.input: bytes = EMPTY_MAP
        self.output: bytes = EMPTY_MAP
        self.labels: dict[str, str] = {}
        self.priority = 0
        self.request_id = self.fingerprint = self.rerun_of = self.actor = self.title = ""
        self.not_after_ms = 0
        self.explicit = False
        self.carried: dict[str, bytes] | None = None
        self.family: Family | None = None
        self.patches: Patches | None = None
        self.variables: dict[str, str] | None = None
        self.journal = Journal() if program.code >= 0 else None
        """Of a code-first run."""
        # Instances, by index.
        self.status = bytearray(program.status_template)
        self.attempt = array("H", bytes(2 * program.size))
        self.waiting = program.waiting_template[:]
        self.taint = bytearray(program.size)
        """Bit 1: a need did not succeed; bit 2: something before it failed; of nodes with a
        trigger rule only, bit 4: a need did succeed, bit 8: one failed."""
        # Sparse facts of instances.
        self.tokens: dict[int, int] = {}
        self.outputs: dict[int, bytes] = {}
        self.errors: dict[int, StepError] = {}
        self.due: dict[int, int] = {}
        self.first_ms: dict[int, int] = {}
        self.losses: dict[int, int] = {}
        """Workers that were lost while they had the step."""
        self.uncounted: dict[int, int] = {}
        """Attempts that no retry policy counts: lost, handed back, before the job's restart."""
        self.claims: dict[int, str] = {}
        self.waits: dict[int, str] = {}
        self.tolerated: set[int] = set()
        self.doomed: set[int] = set()
        """Dispatched steps that nobody wants any more: they are being cancelled."""
        self.detached: set[int] = set()
        self._nothing_failed()
        self.counts: dict[int, Counts] = {}
        self.jobs: dict[int, Job] = {}
        self.scopes: list[Scope] = []
        self.scope_bases: list[int] = []
        self.iterations: dict[int, list[int]] = {}
        """Loop -> body instances of its iterations, by index."""
        self.signals: list[Signal] = []
        self.active = 0
        """Dispatched steps."""
        self.paused = self.cancelling = self.failing = False
        self.pause_reason = self.cancel_reason = self.ended_reason = self.quarantined = ""
        self._no_keys()
        self.fair_key, self.fair_weight = "", 1.0
        # History that the archive does not have yet: encoded chunks, oldest first.
        self.events = 0
        self.history: list[bytes] = []
        self.history_first = 1
        self.history_bytes = 0

    def _no_keys(self) -> None:
        """What it holds, or waits for, of what others want, too: nothing yet."""
        self.key_name = ""
        self.key_limit, self.key_mode = 1, 0
        self.key_held = False
        self.node_keys: dict[int, tuple[str, str]] = {}
        """(key, holder id) that jobs of the run hold or wait for."""
        self.gates: dict[int, Gate] = {}
        """What stands before nodes that have a lock, a rate limit or a cached result (-1: the
        run)."""

    def _nothing_failed(self) -> None:
        """What failures have called for: nothing yet."""
        self.held: dict[int, int] = {}
        """Steps that have failed, or are UNKNOWN, and whose end is open -> the handler that
        decides; -1: a person does."""
        self.handlers: dict[int, int] = {}
        """What was dormant and was called for -> the step that it is for."""
        self.undo: dict[int, None] = {}
        """Steps that have completed and can be undone, in the order of completion."""
        self.sagas: dict[int, Saga] = {}
        self.rounds: dict[int, int] = {}
        """Groups that were begun anew (`compensate-and-retry`) -> how often."""
        self.sticky: dict[int, str] = {}
        """Steps that prefer the worker that last ran a key -> the key."""
        self.stopped: dict[int, int] = {}
        """Background steps that the workflow stopped -> the step that did."""
        self.uncompensated: list[int] = []
        """Steps that should have been undone, and were not."""

    def wire(self, instance: int) -> int:
        """Return the number by which workers and other shards know *instance*."""
        return instance if self.patches is None else self.patches.wire(instance)

    def instance(self, wire: int) -> int:
        """Return the instance with this wire number; -1: none."""
        found = wire if self.patches is None else self.patches.instance(wire)
        return found if 0 <= found < len(self.status) else -1

    def programs(self) -> list[Program]:
        """Return what the run went by, one behind the other, as often as it was patched."""
        moves = self.patches.moves if self.patches is not None else ()
        return [*(move.program for move in moves), self.program]

    def locate(self, instance: int) -> tuple[int, int, Scope | None]:
        """Return (node, shift, scope) of *instance*; node + shift == instance."""
        if instance < self.program.size:
            return instance, 0, None
        scope = self.scopes[bisect_right(self.scope_bases, instance) - 1]
        shift = scope.base - scope.body
        return instance - shift, shift, scope

    def parent(self, instance: int) -> int:
        """Return the instance that contains *instance*, or -1 for the root."""
        node, shift, scope = self.locate(instance)
        if scope is not None and node == scope.body:
            return scope.loop
        above = self.program.parent[node]
        return above + shift if above >= 0 else -1

    def job_of(self, instance: int) -> int:
        """Return the instance of the affinity group around *instance*, or -1."""
        while instance >= 0:
            node, shift, scope = self.locate(instance)
            job = self.program.job[node]
            if job < 0:
                return -1
            if scope is None or job >= scope.body:
                return job + shift
            instance = scope.loop
        return -1

    def broadcast_to(self, instance: int) -> str:
        """Return the id of the worker that alone may run *instance*, in a broadcast; or ""."""
        broadcasts = self.program.broadcasts
        scope = self.locate(instance)[2]
        while scope is not None:
            node, _, outer = self.locate(scope.loop)
            if node in broadcasts:
                return str(scope.item["id"])
            scope = outer
        return ""

    def path(self, instance: int) -> str:
        """Return the stable path of *instance*: ``build[linux]/test``; "" for the root."""
        if instance < self.program.size:
            return self.program.path[instance]
        node, _, scope = self.locate(instance)
        assert scope is not None
        below = self.program.path[node]
        head = f"{self.path(scope.loop)}[{scope.label}]"
        return f"{head}/{below}" if below else head

    def is_open(self, container: int) -> bool:
        """Tell whether children of *container* may still begin (-1: the run itself)."""
        return (
            container < 0 or self.status[container] == status.RUNNING or container in self.detached
        )

    def may_begin(self, instance: int) -> bool:
        """Tell whether the container lets *instance* begin: it runs, and has room (a loop)."""
        if self.handlers and instance in self.handlers:
            # It was called for, whatever has become of the container.
            return True
        if instance < self.program.size:
            above = self.program.parent[instance]
            return above < 0 or self.status[above] == status.RUNNING or above in self.detached
        node, shift, scope = self.locate(instance)
        if scope is None or node != scope.body:
            return self.is_open(self.program.parent[node] + shift)
        if not self.is_open(scope.loop):
            return False
        counts = self.counts.get(scope.loop)
        return counts is None or not counts.window or scope.index < counts.ended + counts.window

    def is_ready(self, instance: int, now_ms: int) -> bool:
        """Tell whether the task *instance* may be dispatched at *now_ms*."""
        value = self.status[instance]
        if self.paused or self.quarantined or self.state != status.RUNNING:
            return False
        if value == status.PENDING:
            if self.waiting[instance]:
                return False
            if instance < self.program.size and not self.handlers:
                # `may_begin`, without the call: most are like that.
                above = self.program.parent[instance]
                if above >= 0 and self.status[above] == status.RUNNING:
                    return True
            return self.may_begin(instance)
        if value == status.WAITING:
            return (
                self.due.get(instance, 0) <= now_ms
                and instance not in self.held
                and not (self.gates and instance in self.gates)
                and self.may_begin(instance)
                and (self.journal is None or self.journal.asked)
            )
        return False

    def is_below(self, instance: int, container: int) -> bool:
        """Tell whether *instance* is *container*, or below it."""
        while instance > container:
            instance = self.parent(instance)
        return instance == container

    def undoes(self, instance: int) -> bool:
        """Tell whether *instance* is part of a compensation: no cancel stops it."""
        return bool(self.program.undoes[self.locate(instance)[0]])

    def saga_around(self, instance: int) -> int:
        """Return the group at or around *instance* that is being compensated, or -1."""
        while instance >= 0 and instance not in self.sagas:
            instance = self.parent(instance)
        return instance

    def round(self, instance: int) -> int:
        """Return how often what is around *instance* was begun anew after a compensation."""
        found = 0
        while instance >= 0:
            found += self.rounds.get(instance, 0)
            instance = self.parent(instance)
        return found

    def descendants(self, container: int) -> list[int]:
        """Return all instances below *container*, without it, in no order that matters."""
        node, _, _ = self.locate(container)
        nodes = self.program.nodes
        found = list(range(container + 1, container + nodes[node].size))
        if self.iterations:
            loops = [at for at in (container, *found) if at in self.iterations]
            while loops:
                loop = loops.pop()
                size = nodes[self.locate(loop)[0] + 1].size
                for base in self.iterations[loop]:
                    inner = range(base, base + size)
                    found.extend(inner)
                    loops.extend(at for at in inner if at in self.iterations)
        return found


class OutMessage(msgspec.Struct, frozen=True, array_like=True):
    """An intent for another shard (or this one), logged with what caused it."""

    shard_key: str
    """Entity whose slot names the target shard, or ``#<shard>`` for a shard itself."""
    kind: str
    """`acquire`, `release`, `started`, `granted`, `expired`, `preempt`, `replaced`, `audit`; of
    runs that begin others: `start-child`, `cancel-child`, `child-ended`; of schedules: `start`,
    `stop`, `run-ended`, `schedules`; of events: `start-by-event`, `event-declined`; of namespaces:
    `namespace`, `variables`."""
    args: list[Any]


class Tombstone(NamedTuple):
    """What is left of an evicted run until its submit can no longer be sent again."""

    fingerprint: str
    state: int
    expires_ms: int


class ShardState:
    """Everything that a shard's log folds to."""

    def __init__(self, shard: int, builtin: frozenset[str] = frozenset()) -> None:
        self.shard = shard
        self.builtin = builtin
        self.runs: Runs[Run] = Runs()
        self.plans: dict[str, bytes] = {}
        self.plan_uses: dict[str, int] = {}
        self.tombstones: dict[str, Tombstone] = {}
        self.requests: dict[str, int] = {}
        """Ids of mutations already logged -> when they are forgotten."""
        self.expiries: list[tuple[int, str, bool]] = []
        """A heap of (when, id, is a tombstone)."""
        self.token_last = self.definition_last = 0
        """Numbers of the last ones: fencing tokens, registered definitions."""
        self.keys: dict[str, KeyRecord] = {}
        self.kept = KeptResults()
        """Results of steps, for others."""
        self.outbox: dict[str, OutMessage] = {}
        self.snapshots: list[tuple[int, str, str]] = []
        """(position, name, state hash) of the registered ones, oldest first; two are kept."""
        self.settings: dict[str, Any] = {}
        # Sticky key in its namespace -> (when, worker that last ran it).
        self.sticky: dict[str, tuple[int, str]] = {}
        # Those that have settings -> (weight, number of the change).
        self.namespaces: dict[str, tuple[float, int]] = {}
        # Namespace -> (number of the change, variables); a map is replaced, never changed.
        self.variables: dict[str, tuple[int, dict[str, str]]] = {}
        self.definitions: dict[str, dict[str, Definition]] = {}
        """System shard: ``<namespace>/<name>`` -> version -> what it is, the newest last."""
        self.schedules: dict[str, Schedule] = {}
        """``<namespace>/<name>`` -> schedule of this (its home) shard."""
        self.schedule_marks: dict[str, int] = {}
        """Definition -> its newest change that its schedules follow."""
        self.incoming = Incoming()
        """System shard: events from outside."""
        # The chain of batches.
        self.now_ms = self.logged_ms = 0
        """Now: a leader's may be ahead of the log; and the time of the last batch."""
        self.batch_index = self.batch_position = 0
        self.batch_hash = b""
        # Not state: caches and the agenda of things to decide (filled only while leading).
        self.programs: dict[tuple[str, str], Program] = {}
        self.leading = self.outbox_news = False
        """The outbox may hold what nobody has looked at yet."""
        self.agenda: deque[tuple[Run, int]] = deque()
        """(run, instance) that became enabled; (run, ~instance) of a container to look at."""

    def program(self, digest: str, namespace: str) -> Program:
        """Return the program of a stored plan; raises KeyError if the plan is not stored."""
        program = self.programs.get((digest, namespace))
        if program is None:
            plan = decode_plan(self.plans[digest])
            program = Program(plan, digest, namespace, self.builtin)
            self.programs[digest, namespace] = program
        return program

    def remember(self, request_id: str, not_after_ms: int) -> None:
        """Note a logged mutation, until it can no longer be sent again. For the fold."""
        if request_id and request_id not in self.requests:
            self.requests[request_id] = not_after_ms
            heappush(self.expiries, (not_after_ms, request_id, False))

    def post(self, place: str, kind: str, key: str, holder: str, *more: Any) -> None:
        """Add an intent for the home shard of *place* (``#<n>``: shard n itself). For the fold.

        The id is made of the content, so that it does not depend on the order of events of
        different runs within a batch; holders are never used twice.
        """
        self.outbox[f"{kind}:{key}:{holder}"] = OutMessage(place, kind, [key, holder, *more])
        self.outbox_news = True
        if kind == "release":
            # Never to be sent behind its own release: the key would be given to nobody.
            self.outbox.pop(f"acquire:{key}:{holder}", None)
