"""Plan and node structs, their encoding and their digest."""

from __future__ import annotations

import hashlib
from typing import Any, Literal, TypeAlias

import msgspec

from headrace.retry import RetryPolicy


class Position(msgspec.Struct, frozen=True, array_like=True):
    """Where a node stands in its file; both count from 1, 0 is unknown."""

    line: int = 0
    column: int = 0


FAIRNESS_KEY_MAX = 64
"""Bytes of a fairness key; this and the weights' limits are Temporal's."""
FAIRNESS_WEIGHT_MIN = 0.001
FAIRNESS_WEIGHT_MAX = 1_000.0


class InputSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One declared input of a workflow (`on.workflow_dispatch.inputs.<name>`)."""

    type: Literal["string", "number", "boolean", "choice", "json"] = "string"
    description: str = ""
    required: bool = False
    default: Any = None
    options: tuple[str, ...] = ()


class Concurrency(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """At most `limit` holders of `group` at a time; the holders are a set, never a counter."""

    group: str
    """May hold expressions."""
    limit: int = 1
    cancel_in_progress: bool | str = False
    """May be an expression."""
    queue: Literal["single", "max"] = "max"
    """`single` keeps only the newest waiter, as GitHub does."""


class Lock(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One holder of `name` at a time in a namespace: from when the node begins until it ends (of a
    step: each attempt)."""

    name: str
    """May hold expressions."""
    ttl_ms: int = 0
    """It is lost after this time, though the node has not ended; 0: never."""
    timeout_ms: int = 0
    """The longest wait for it; then the node fails. 0: without an end."""


class RateLimit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """At most `limit` nodes with the same `key` begin in any period of `per_ms`."""

    key: str
    """May hold expressions."""
    limit: int
    per_ms: int
    timeout_ms: int = 0
    """The longest wait; then the node fails. 0: without an end."""


class Cache(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of a step is that of an earlier one with this key, in this namespace, that says
    and does the same (handler, inputs and `env` as they are written)."""

    key: str
    """May hold expressions."""
    ttl_ms: int = 0
    """So long the result is kept; 0: until there is no room."""


class SecretSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One secret that a workflow wants of its caller (`on.workflow_call.secrets.<name>`)."""

    description: str = ""
    required: bool = False


class Schedule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Times at which runs begin by themselves (`on.schedule`)."""

    cron: str
    """Five fields: minute, hour, day of the month, month, day of the week; checked."""
    timezone: str = "UTC"
    """A name of the tz database."""
    catch_up: Literal["none", "one", "all"] = "one"
    """Times that passed while no coordinator looked: none of them, the newest, or all."""
    window_ms: int = 86_400_000
    """What lies longer back is not caught up."""
    overlap: Literal["allow", "skip", "queue", "cancel-previous"] = "allow"
    """What happens when the run before has not ended."""
    jitter_ms: int = 0
    """A run begins up to this much later, by chance."""
    inputs: dict[str, Any] = {}
    """Of its runs; JSON without expressions."""


class Debounce(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of events that come closely one after the other, the last one begins the run."""

    period_ms: int
    """So long no other one may come."""
    key: str = ""
    """Text that may hold expressions over `event` and `vars`: events of one key are together."""
    max_ms: int = 0
    """The run begins so long after the first one at the latest; 0: there is no such limit."""


class EventTrigger(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Events that begin a run (`on.event`)."""

    subject: str
    """Of the event; tokens between dots, `*` for one token, `>` for the rest."""
    filter: str = ""
    """Expression without ``${{ }}`` over `event` and `vars`; empty: every event."""
    inputs: dict[str, Any] = {}
    """Inputs of the run by name; JSON that may hold expressions over `event` and `vars`."""
    debounce: Debounce | None = None


class Join(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When a group of children has succeeded, and what becomes of the rest."""

    kind: Literal["all", "any", "count", "percent"] = "all"
    value: int = 0
    """For `count` the number, for `percent` 1 to 100 (rounded up)."""
    losers: Literal["cancel", "detach", "await"] = "cancel"

    def needed(self, total: int) -> int:
        """Return how many of *total* children must succeed (`all`: every one)."""
        if self.kind == "all":
            return total
        if self.kind == "any":
            return min(1, total)
        if self.kind == "count":
            return min(self.value, total)
        return -(-total * self.value // 100)


TriggerRule: TypeAlias = Literal[
    "all_success", "all_done", "one_success", "one_failed", "none_failed",
    "none_failed_min_one_success",
]  # fmt: skip
"""`one_success` and `one_failed` fire as soon as one need has; the others when all have ended. Who
is skipped because of a failure counts as failed; `continue-on-error` as success."""


class OnFailure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What follows when a node has failed for good: its retries are used up."""

    action: Literal["skip", "abort", "compensate", "compensate-and-retry", "run", "fail"]
    """`skip`: it counts as SKIPPED, what needs it goes on. `abort`: the run fails at once.
    `compensate`: what has completed is undone first. `run`: a handler decides. `fail`: no policy,
    whatever is inherited."""
    handler: int = -1
    """For `run`: the dormant sibling that is run."""
    rounds: int = 3
    """For `compensate-and-retry`: how often it is done in all."""


class Call(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What makes a group a called workflow: expressions inside see none of the contexts outside.

    They see `inputs` from here, `env` from here on inwards, needs and jobs inside, and `vars`.
    """

    file: str
    """The workflow as its caller names it; positions inside are those of that file."""
    name: str = ""
    inputs: dict[str, InputSpec] = {}
    given: dict[str, Any] = {}
    """`with`: evaluated where the call stands."""
    secrets: dict[str, str] | None = None
    """By the name inside, an expression over the caller's secrets; None: all of them."""
    env: dict[str, Any] = {}
    vars: dict[str, Any] = {}
    concurrency: Concurrency | None = None
    """Of the called workflow, with its inputs."""


class _Base(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every node has."""

    name: str
    """Path segment, unique among siblings: the step's or job's id."""
    title: str = ""
    """Display name; may hold expressions."""
    parent: int = -1
    size: int = 1
    """Nodes in this subtree, itself included: they are the slice [index, index + size)."""
    needs: tuple[int, ...] = ()
    """Indexes of siblings that must have ended first."""
    condition: str = ""
    """Expression without ``${{ }}``; empty means `success()`. A condition that calls none of
    `success failure cancelled always` gets `success() &&` in front, as GitHub does."""
    continue_on_error: bool | str = False
    """A failure counts as success for those that need this node (`conclusion`)."""
    timeout_ms: int | str | None = None
    """From start to end, all attempts."""
    position: Position = Position()
    trigger_rule: TriggerRule | None = None
    """What must have become of `needs`; None: what the condition asks (`success()`)."""
    on_failure: OnFailure | None = None
    """Nodes below inherit it. What `compensate` undoes: what is below the group that says so; said
    by another node, below its job, else in the whole run."""
    dormant: bool = False
    """Does not begin by itself, and its container does not wait for it: a sibling's `compensate`,
    `on_failure` or `unknown_handler` names it."""
    background: bool = False
    """In a sequence: those behind it do not wait for it, unless they need it by name."""


class Task(_Base, frozen=True, kw_only=True, omit_defaults=True, tag="task"):
    """A leaf that a worker runs."""

    uses: str
    """The handler's name: `shell`, `http/request`, …"""
    inputs: dict[str, Any] = {}
    """The handler's input (`with:`); JSON that may hold expressions."""
    env: dict[str, Any] = {}
    runs_on: tuple[str, ...] = ()
    """Capabilities needed, beside those of the job; may hold expressions."""
    retry: RetryPolicy | None = None
    attempt_timeout_ms: int | None = None
    schedule_timeout_ms: int | None = None
    """Longest wait from ready to start."""
    heartbeat_timeout_ms: int | None = None
    effect: Literal["at-least-once", "at-most-once"] = "at-least-once"
    priority: int = 0
    compensate: int = -1
    """The dormant sibling that undoes this step once it has completed; -1: none."""
    on_unknown: Literal["fail", "wait", "run"] = "fail"
    """When nobody knows whether an at-most-once effect took place: `wait` for a person."""
    unknown_handler: int = -1
    """For `on_unknown: run`: the dormant sibling that finds out."""
    sticky: str = ""
    """It prefers the worker that last ran this key; may hold expressions. Empty: as what is around
    it says."""
    lock: Lock | None = None
    rate_limit: RateLimit | None = None
    cache: Cache | None = None
    code: bool = False
    """`uses` (``<app>@<version>/<workflow>``) is a workflow function: it is run in turns, and the
    run keeps its journal (see `headrace.messages.Turn`). The only task of its plan."""


class Group(_Base, frozen=True, kw_only=True, omit_defaults=True, tag="group"):
    """A container: its children run in the order that their `needs` say (none: all at once)."""

    kind: Literal["graph", "job", "pipeline", "parallel"] = "graph"
    """`job` and `pipeline` are sequences: each child needs the last one before it that is not in
    the background (and background ones that it waits for), and `success()`
    looks at every earlier sibling. `graph` looks at the child's own `needs`."""
    join: Join = Join()
    affinity: bool = False
    """All tasks below run on one worker, in one workspace folder (a job)."""
    on_worker_loss: Literal["restart-job", "continue", "fail"] = "restart-job"
    runs_on: tuple[str, ...] = ()
    env: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    """Evaluated when the group ends; `needs.<job>.outputs.<name>`."""
    concurrency: Concurrency | None = None
    call: Call | None = None
    cancel_timeout_ms: int | str | None = None
    """How long what is in a job may still run after a cancel: steps that are being stopped, and
    those that run in spite of it (`always()`); None: as long as it takes."""
    on_cancel: Literal["", "compensate"] = ""
    """Of the root: what has completed is undone when the run is cancelled."""
    lock: Lock | None = None
    rate_limit: RateLimit | None = None
    sticky: str = ""
    """Of all tasks below; see `Task.sticky`."""
    cancels: tuple[int, ...] = ()
    """Background siblings that it stops when it begins; it ends when they have ended."""


class Loop(_Base, frozen=True, kw_only=True, omit_defaults=True, tag="loop"):
    """Runs its one child (the next node) once for each item, a matrix or a `for-each`; or one time
    after the other (`repeat`), as long as its conditions say; or once on each live worker that
    offers what the child needs (`broadcast`)."""

    kind: Literal["matrix", "for-each", "repeat", "broadcast"] = "for-each"
    items: Any = None
    """A JSON list, or an expression that gives one. For a matrix: the mapping as written (axes,
    `include`, `exclude`), possibly an expression."""
    variable: str = "item"
    """The context under which the body sees its item; `matrix` for a matrix."""
    max_parallel: int | str | None = None
    fail_fast: bool | str = False
    join: Join = Join()
    times: int | str | None = None
    """Of a `repeat`: how many iterations, if nothing ends it before; None: no number."""
    before: str = ""
    """Of a `repeat`: it goes on while this condition holds; asked before each iteration."""
    after: str = ""
    """Of a `repeat`: it has ended when this condition holds; asked after each iteration."""
    limit: int = 10_000
    """Of a `repeat`: with more iterations it fails."""
    on_worker_loss: Literal["fail", "skip"] = "fail"
    """Of a `broadcast`: what becomes of the iteration of a worker that does not come back."""


class Choice(_Base, frozen=True, kw_only=True, omit_defaults=True, tag="choice"):
    """`if/elif/else`: runs the first child whose own `condition` holds; the others are skipped."""


class Wait(_Base, frozen=True, kw_only=True, omit_defaults=True, tag="wait"):
    """Waits for a signal (also `approval`); the payload becomes the outputs."""

    signal: str
    """May hold expressions."""
    approval: bool = False
    default: Any = None
    """Outcome at the timeout (`timeout_ms`), if `has_default`; else the node fails."""
    has_default: bool = False
    correlation_key: str = ""
    """Only a signal that names the same key is taken; may hold expressions."""


class Sleep(_Base, frozen=True, kw_only=True, omit_defaults=True, tag="sleep"):
    """Waits for a time. Exactly one of the two is set; either may be an expression."""

    duration_ms: int | str | None = None
    """Milliseconds; an expression gives a duration such as `90s` or a number of seconds."""
    until: str | None = None
    """RFC 3339."""


class Subworkflow(_Base, frozen=True, kw_only=True, omit_defaults=True, tag="subworkflow"):
    """Runs another workflow as a run of its own, and waits for its end unless `detached`."""

    plan: bytes
    """The other workflow, encoded: compiled in, so that a live run never sees a newer one. Empty: a
    registered one that was not looked up yet; such a plan cannot run."""
    inputs: dict[str, Any] = {}
    """JSON that may hold expressions."""
    detached: bool = False
    """It has succeeded as soon as it is sure that the other run begins."""
    source: str = ""
    """The file as written, or the registered name with its version."""


Node: TypeAlias = Task | Group | Loop | Choice | Wait | Sleep | Subworkflow


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A whole workflow. `nodes[0]` is the root group."""

    format: Literal[1] = 1
    name: str
    nodes: tuple[Node, ...]
    dialect: Literal["jobs", "tasks", "code"] = "jobs"
    description: str = ""
    run_name: str = ""
    version: str = ""
    inputs: dict[str, InputSpec] = {}
    vars: dict[str, Any] = {}
    env: dict[str, Any] = {}
    timeout_ms: int | None = None
    concurrency: Concurrency | None = None
    labels: dict[str, str] = {}
    file: str = ""
    """The file's base name, for messages; part of no digest."""
    schedules: tuple[Schedule, ...] = ()
    events: tuple[EventTrigger, ...] = ()
    secrets: dict[str, SecretSpec] = {}
    """That a caller gives; a run of its own takes what the worker has."""
    fairness_key: str = ""
    """Runs take turns by key; may hold expressions. Empty: by no key."""
    fairness_weight: float = 1.0
    """How large the turn of the key is, against other keys'."""
    rate_limit: RateLimit | None = None
    """Of the starts of its runs."""


# Maps keep the order in which they were written: it shows (the legs of a matrix, `toJSON(env)`).
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Plan)


def encode_plan(plan: Plan) -> bytes:
    """Return *plan* as msgpack; plans that were written alike give equal bytes.

    The order of a map's keys is part of the plan, as it is in a definition: the legs of a matrix
    come in the order of its axes. A decoded plan has the order of its bytes, so that whoever
    encodes it again gets the same bytes.

    Encoded twice: msgspec leaves out a default string only when it is the very object, which is
    so for what it decoded itself.
    """
    return _encoder.encode(_decoder.decode(_encoder.encode(plan)))


def decode_plan(data: bytes) -> Plan:
    """Return the plan in *data*.

    Raises `msgspec.MsgspecError` on bytes that `encode_plan` did not make.
    """
    return _decoder.decode(data)


def plan_digest(plan: Plan) -> str:
    """Return the plan's content address: 32 hex digits (BLAKE2b, without the file's name)."""
    return hashlib.blake2b(
        encode_plan(msgspec.structs.replace(plan, file="")), digest_size=16
    ).hexdigest()


def is_expression(value: object) -> bool:
    """Tell whether *value* is a string that holds an expression."""
    return isinstance(value, str) and "${{" in value
