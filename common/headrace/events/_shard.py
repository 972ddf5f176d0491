"""What happens in a shard beside its runs."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from headrace.messages import ResultExtra, ScheduleSpec


class PlanStored(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=101):
    """A plan is kept, before any run names it."""

    digest: str
    data: bytes


class RunEvicted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=102):
    """The archive has the run; only a tombstone stays until `not_after_ms`."""

    run: str
    fingerprint: str
    state: int
    not_after_ms: int


class SnapshotRegistered(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=103):
    """A snapshot of the state at `position` was written, read back and compared."""

    position: int
    name: str
    state_hash: str


class RequestSeen(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=104):
    """A mutation that changed nothing else was answered; sent again it is answered the same."""

    request_id: str
    not_after_ms: int


class PlansForgotten(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=105):
    """Plans that no live run names left the state; a client stores them again."""

    digests: list[str]


class KeyWaited(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=110):
    """A holder waits for a key of this (its home) shard."""

    key: str
    holder: str
    limit: int
    mode: int
    shard: int
    """Where the holder lives; -1: it is a client's."""
    ttl_ms: int = 0
    """Of a lock: how long it may be held; 0: no limit."""
    per_ms: int = 0
    """Of a rate limit: its period."""
    until_ms: int = 0
    """When it gives up waiting; 0: never, or its shard says so."""
    owner: str = ""
    """Who it is, for people."""


class KeyGrantedTo(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=111):
    """A holder was added to a key's set; its shard is told through the outbox."""

    key: str
    holder: str
    audit_ms: int = 0
    """When the key's holders are to be asked about; 0: as before."""
    token: int = 0
    """Of a lock: its fencing token, higher than any before in this shard."""
    until_ms: int = 0
    """Of a lock: when it expires; 0: never."""


class KeyReleased(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=112):
    """A holder or waiter left a key's set."""

    key: str
    holder: str
    reason: str = "released"
    """`released`, `replaced` (a newer waiter), `audit` (the holder exists no more), `started` (of a
    rate limit: its place is taken for a period from now on), `expired` (the time of a lock is
    over), `forced` (a person took it) or `timeout` (it gave up waiting)."""


class KeyDeclined(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=114):
    """A grant came for a holder that has ended: it is given back through the outbox."""

    key: str
    holder: str


class ChildRefused(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=140):
    """A child could not be made: its parent's shard is told through the outbox."""

    child: str
    holder: str
    shard: int
    reason: str


class KeyAudited(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=115):
    """Shards of holders are asked, through the outbox, whether these are still there."""

    key: str
    holders: list[str]
    audit_ms: int
    """When they are asked again."""


class KeysCooled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=150):
    """Nothing has begun within these rate limits for a whole period: they are forgotten."""

    keys: list[str]


class LockRenewed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=151):
    """A client holds its lock for longer (or less long)."""

    key: str
    holder: str
    until_ms: int
    request_id: str
    not_after_ms: int


class CacheAsked(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=152):
    """A step of `shard` wants the result that this (its home) shard may keep; it is told through
    the outbox."""

    key: str
    holder: str
    shard: int


class CacheStored(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=153):
    """The result of a step is kept for others."""

    key: str
    output: bytes
    run: str
    """``<namespace>/<run id>``"""
    path: str
    time_ms: int
    until_ms: int
    """When it is forgotten; 0: when there is no room."""
    extra: ResultExtra | None = None
    evicted: list[str] = []
    """Keys of results that make room for it."""


class CacheCleared(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=154):
    """A person has results forgotten."""

    keys: list[str]
    request_id: str
    not_after_ms: int
    actor: str = ""


class OutboxCleared(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=113):
    """Another shard has an outbox message in its log."""

    message: str


class NamespaceChanged(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=160):
    """Settings of a namespace. The system shard decides; the others hear of it by the outbox."""

    namespace: str
    weight: float
    number: int
    """Counts the changes of this namespace: the highest holds."""
    request_id: str = ""
    not_after_ms: int = 0
    actor: str = ""


class VariablesChanged(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=165):
    """Variables of a namespace. The system shard decides; the others hear of it by the outbox."""

    namespace: str
    values: dict[str, str]
    """All of them, from now on."""
    number: int
    """Counts the changes of this namespace: the highest holds."""
    name: str = ""
    """The one that was set or deleted."""
    request_id: str = ""
    not_after_ms: int = 0
    actor: str = ""


class SettingsChanged(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=120):
    """System shard: durable settings (slot table, feature level, coordinators, namespaces)."""

    settings: dict[str, Any]


class DefinitionRegistered(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=130):
    """System shard: a stored plan has a name and a version from now on."""

    key: str
    """``<namespace>/<name>``"""
    version: str
    digest: str
    number: int
    """Counts what was ever registered in the cluster."""
    request_id: str
    not_after_ms: int
    actor: str = ""
    schedules: bool = False
    """The home of its schedules is told: it has some, or had."""
    events: bool = False
    """Events begin runs of it."""


class DefinitionsDeleted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=131):
    """System shard: versions of a name are registered no more."""

    key: str
    versions: list[str]
    request_id: str
    not_after_ms: int
    actor: str = ""
    number: int = 0
    """Of the change, if the home of its schedules is told; else 0."""
    events: bool = False
    """Events begin runs of the version that is the newest now."""


class ScheduleCreated(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=132):
    """A schedule of this (its home) shard begins, or has another content from now on."""

    key: str
    spec: ScheduleSpec
    plan: str
    """Digest; the plan is stored."""
    next_ms: int
    """Nominal time of the next run; 0: there is none."""
    due_ms: int
    """When it begins: jitter is in it."""
    request_id: str = ""
    not_after_ms: int = 0
    actor: str = ""


class SchedulePaused(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=133):
    """A schedule lets times pass from now on, or (`paused` false) goes on."""

    key: str
    paused: bool
    next_ms: int
    due_ms: int
    request_id: str = ""
    not_after_ms: int = 0
    reason: str = ""
    actor: str = ""


class ScheduleFired(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=134):
    """What became of times that have come. Each of `started` is a run, begun by the outbox."""

    key: str
    started: list[int]
    """Nominal times."""
    queue: list[int]
    """Nominal times that wait for a run to end: all of them."""
    next_ms: int
    due_ms: int
    missed: bool = False
    """Some time passes without a run."""
    cancelled: list[str] = []
    """Runs that are to be cancelled."""


class ScheduleRunEnded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=135):
    """A run of a schedule has ended, or could not begin."""

    key: str
    run: str
    problem: str = ""


class ScheduleDeleted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=136):
    """A schedule is no more."""

    key: str
    request_id: str = ""
    not_after_ms: int = 0
    actor: str = ""


class SchedulesApplied(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=137):
    """The schedules of a definition are those of its change `number`; older ones come too late."""

    key: str
    number: int


class StartDeclined(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=138):
    """A run that a schedule wanted cannot begin here; its home is told through the outbox."""

    run: str
    schedule: str
    problem: str


class BegunByEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A run that an event begins; part of `EventsTaken`."""

    definition: str
    """``<namespace>/<name>``"""
    plan: str
    """Digest; the plan is stored."""
    run: str
    """Key."""
    input: bytes
    labels: dict[str, str]


class HeldForQuiet(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an event would begin, if none like it comes before `due_ms`; part of `EventsTaken`."""

    name: str
    """``<namespace>/<definition>#<entry>:<key>``: what is held under it already is dropped."""
    begun: BegunByEvent
    due_ms: int


class EventsTaken(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=142):
    """System shard: events from outside were read and looked at, all up to `position`."""

    stream: str
    """When their stream was made: numbers count from there."""
    position: int
    begun: list[BegunByEvent] = []
    """Runs, begun by the outbox."""
    failed: list[tuple[str, str]] = []
    """Definition, and why an event that it waits for begins no run of it."""
    held: list[HeldForQuiet] = []
    """Runs that begin when no other event like theirs has come for a while."""


class DebounceEnded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=145):
    """System shard: it was quiet for long enough; what was held begins, by the outbox."""

    name: str


class EventRunDeclined(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=143):
    """A run that an event wanted cannot begin here; the system shard is told."""

    run: str
    definition: str
    problem: str


class TriggerFailed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=144):
    """System shard: a run that an event wanted could not begin in its shard."""

    definition: str
    run: str
    problem: str


ShardEvent: TypeAlias = (
    PlanStored
    | RunEvicted
    | SnapshotRegistered
    | RequestSeen
    | PlansForgotten
    | KeyWaited
    | KeyGrantedTo
    | KeyReleased
    | KeyDeclined
    | KeyAudited
    | KeysCooled
    | LockRenewed
    | CacheAsked
    | CacheStored
    | CacheCleared
    | OutboxCleared
    | ChildRefused
    | NamespaceChanged
    | VariablesChanged
    | SettingsChanged
    | DefinitionRegistered
    | DefinitionsDeleted
    | ScheduleCreated
    | SchedulePaused
    | ScheduleFired
    | ScheduleRunEnded
    | ScheduleDeleted
    | SchedulesApplied
    | StartDeclined
    | EventsTaken
    | DebounceEnded
    | EventRunDeclined
    | TriggerFailed
)
