"""Clients and coordinators: requests, replies, and the views that people read.

A client sends `ClientBatch` to `headrace.cmd.<namespace>.<shard>` and receives `ReplyBatch`, one
`ClientReply` for each request, in order. Every mutation carries a `request_id` made by the client
and a `not_after_ms`: sending it again until then is safe; the owner refuses it afterwards.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from headrace.messages._cache import CacheRequest
from headrace.messages._definitions import DefinitionRequest
from headrace.messages._evidence import GetEvidence
from headrace.messages._function import FunctionRequest
from headrace.messages._locks import LockRequest
from headrace.messages._namespaces import NamespaceRequest
from headrace.messages._patch import PatchRun
from headrace.messages._schedules import ScheduleRequest
from headrace.messages._triggers import ListTriggers
from headrace.messages._variables import VariableRequest


class _Mutation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    run: str
    """Run id, without the namespace."""
    request_id: str
    not_after_ms: int
    actor: str = ""


class StorePlan(msgspec.Struct, frozen=True, kw_only=True, tag="store-plan"):
    """Keep a plan in the shard, under its digest. Result: the digest."""

    plan: bytes


class SubmitRun(_Mutation, frozen=True, kw_only=True, omit_defaults=True, tag="submit"):
    """Start a run of a plan that the shard knows. Result: `RunView` without steps.

    The error `unknown-plan` means: send `StorePlan` first.
    """

    plan: str
    """Digest."""
    input: dict[str, Any] = {}
    labels: dict[str, str] = {}
    priority: int = 0
    explicit: bool = False
    """The user chose the id: it stays unique for as long as the archive remembers it."""
    rerun_of: str = ""
    carried: dict[str, bytes] = {}
    """Path -> recorded outputs (a msgpack map) that are taken over instead of run again."""
    fairness_key: str = ""
    """Runs take turns by key; empty: the plan's."""
    fairness_weight: float = 0.0
    """Of the key's turn; 0: the plan's."""


class SignalRun(_Mutation, frozen=True, kw_only=True, omit_defaults=True, tag="signal"):
    """Deliver a signal once; kept if the run does not wait for it yet."""

    name: str
    payload: Any = None
    correlation_key: str = ""
    """Only a wait with this key takes it; empty: one without."""


class CancelRun(_Mutation, frozen=True, kw_only=True, omit_defaults=True, tag="cancel"):
    """Stop a run; its running steps are killed first. A workflow function is asked to let go."""

    reason: str = ""
    force: bool = False
    """Stop a workflow function, and compensations, without asking."""


class PauseRun(_Mutation, frozen=True, kw_only=True, omit_defaults=True, tag="pause"):
    """Dispatch nothing more of a run until it is resumed; running steps finish."""

    reason: str = ""


class ResumeRun(_Mutation, frozen=True, kw_only=True, omit_defaults=True, tag="resume"):
    """Go on after a pause."""


class ResolveStep(_Mutation, frozen=True, kw_only=True, omit_defaults=True, tag="resolve"):
    """Say what became of a step that is UNKNOWN and waits for a person (`on-unknown: wait`)."""

    step: str
    """Its path."""
    resolution: str
    """`completed`, `failed` or `retry`."""
    output: dict[str, Any] = {}
    """Of a completed one."""


class GetRun(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="get"):
    """Result: `RunView`. `wait_ms` above 0: answer when it has ended, or then.

    `at_event` (from 1) or `at_ms` (since the epoch; 0: now): the run as it was right behind that
    event, or then, at once.
    """

    run: str
    wait_ms: int = 0
    steps: bool = True
    plan: bool = False
    at_event: int | None = None
    at_ms: int = 0


class GetHistory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="history"):
    """Result: list of `HistoryEntry`, from number `after` on, at most `limit`."""

    run: str
    after: int = 0
    limit: int = 10_000


class GetExplanation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="explain"):
    """Result: `Explanation`."""

    run: str


class GetPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="plan"):
    """Result: the run's encoded plan (bytes)."""

    run: str


class ListRuns(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="list"):
    """Result: `RunPage`, newest first. To a shard: open runs; to the archive: closed ones."""

    states: list[str] = []
    workflow: str = ""
    labels: dict[str, str] = {}
    since_ms: int = 0
    limit: int = 50
    cursor: str = ""


class HasRuns(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="has"):
    """Result: those of `runs` (ids) that the shard holds. Asked by coordinators."""

    runs: list[str]


class GetInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="info"):
    """Result: `ServerInfo`."""

    workers: bool = False


ClientRequest: TypeAlias = (
    StorePlan
    | SubmitRun
    | SignalRun
    | CancelRun
    | PauseRun
    | ResumeRun
    | ResolveStep
    | PatchRun
    | GetRun
    | GetHistory
    | GetExplanation
    | GetPlan
    | GetEvidence
    | ListRuns
    | GetInfo
    | HasRuns
    | DefinitionRequest
    | ScheduleRequest
    | ListTriggers
    | NamespaceRequest
    | VariableRequest
    | LockRequest
    | CacheRequest
    | FunctionRequest
)


class ClientBatch(msgspec.Struct, frozen=True, array_like=True):
    """What goes over the wire."""

    version: int
    namespace: str
    requests: list[ClientRequest]


class ClientReply(msgspec.Struct, frozen=True, array_like=True):
    """Either `result` (encoded as the request says) or an error by `code`."""

    result: msgspec.Raw
    code: str = ""
    message: str = ""
    retry_after_ms: int = 0


class Parts(msgspec.Struct, frozen=True, array_like=True):
    """Where a reply too large for one message is fetched: a request with the number of the first
    byte wanted (an int) to `subject` is answered by the bytes from there on, as many as fit; by
    none when the reply is not kept any more.
    """

    subject: str
    part_bytes: int
    size: int


class ReplyBatch(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """Replies in the order of the requests."""

    version: int
    replies: list[ClientReply]
    parts: Parts | None = None
    """Instead of `replies`: the encoded `ReplyBatch` is to be fetched."""


class StepView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A node of a run as people see it; times in ms since the epoch, 0: not yet."""

    path: str
    name: str = ""
    kind: str = "task"
    state: str
    uses: str = ""
    attempt: int = 0
    worker: str = ""
    reason: str = ""
    created_ms: int = 0
    started_ms: int = 0
    finished_ms: int = 0
    error: str = ""
    outputs: Any = None
    needs: list[str] = []
    index: int = 0
    child: str = ""
    """Id of the run that a subworkflow has begun."""
    annotations: list[dict[str, Any]] = []
    """What the step has said by `::error::`, `::warning::`, `::notice::`: `level`, `message`, and
    `file`, `line`, `column`, `title` where given."""
    summary: str = ""
    """What it has written to `$GITHUB_STEP_SUMMARY`."""
    outcome: str = ""
    """`success failure cancelled skipped`; empty while it has not ended."""
    conclusion: str = ""
    """The outcome after `continue-on-error`."""
    details: Any = None
    """What a step that runs, or of a workflow function is tried again, said last in a heartbeat."""


class RunView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A run as people see it."""

    id: str
    namespace: str = "default"
    workflow: str
    state: str
    """PENDING RUNNING COMPLETED FAILED CANCELLED"""
    conditions: list[str] = []
    """PAUSED WAITING BLOCKED"""
    reason: str = ""
    created_ms: int = 0
    started_ms: int = 0
    finished_ms: int = 0
    labels: dict[str, str] = {}
    priority: int = 0
    input: Any = None
    output: Any = None
    plan: str = ""
    """Digest."""
    rerun_of: str = ""
    shard: int = 0
    archived: bool = False
    events: int = 0
    steps: list[StepView] = []
    parent: str = ""
    """Id of the run that has begun this one."""
    as_of_ms: int = 0
    """Above 0: the run as it was then, `events` events old."""
    name: str = ""
    """`run-name`, evaluated; empty: the workflow has none."""
    fairness_key: str = ""
    """Of an open run: by which key its steps take turns; empty: by none."""
    fairness_weight: float = 1.0
    patched: list[int] = []
    """Numbers of the events that gave it another plan (`flowctl patch`)."""


class HistoryEntry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One event of a run."""

    number: int
    """From 1."""
    time_ms: int
    type: str
    """`StepCompleted`, …"""
    path: str = ""
    data: dict[str, Any] = {}


class WaitReason(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Why one thing waits, since when, until when, and on whom it depends."""

    path: str = ""
    state: str = ""
    reason: str
    """One sentence: `no worker offers gpu (needed: gpu, linux)`."""
    owner: str = ""
    """Who must act: a worker, a person, a timer, the coordinator."""
    since_ms: int = 0
    deadline_ms: int = 0
    key: str = ""
    """The concurrency key, lock or rate limit that is waited for."""
    holder: str = ""
    """Under what name; empty: all that is known of it is said. Else its home shard knows more
    (`GetKey`)."""


class Explanation(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Answer to `flowctl explain RUN`."""

    run: str
    state: str
    summary: str
    reasons: list[WaitReason] = []

    @classmethod
    def of_ended(cls, run: str, state: str, reason: str) -> Explanation:
        """Return that of a run which waits for nothing any more."""
        why = f"; {reason}" if reason else ""
        return cls(run=run, state=state, summary=f"it has ended, and waits for nothing{why}")


class RunPage(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A page of runs, newest first; `cursor` empty: the last one."""

    runs: list[RunView]
    cursor: str = ""


class ShardInfo(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One shard, as its owner and the registry know it."""

    shard: int
    level: str = "journal"
    owner: str = ""
    standby: str = ""
    epoch: int = 0
    runs: int = 0
    ready: int = 0
    position: int = 0
    state_hash: str = ""
    log_bytes: int = 0
    standby_position: int = 0
    standby_hash: str = ""
    missing: list[str] = []
    """Labels that steps of its owner wait for, and no worker offers."""


class WorkerView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One worker."""

    id: str
    incarnation: str
    namespace: str
    state: str
    """Online Busy Draining Offline"""
    capabilities: list[str]
    handlers: list[str] = []
    slots: int = 0
    free: int = 0
    release: str = ""
    host: str = ""
    started_ms: int = 0
    last_seen_ms: int = 0
    problems: list[str] = []
    """What an operator can mend there."""
    versions: dict[str, str] = {}
    """Of handlers that have one."""


class ServerInfo(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a client must know of a cluster, and what `cluster status` prints."""

    version: int
    release: str
    controller: str = ""
    coordinators: list[dict[str, Any]] = []
    slots: list[int] = []
    """Slot -> shard for journal runs: run-length pairs ``[shard, count, shard, count, …]``."""
    level_shards: dict[str, list[int]] = {}
    """`memory` and `snapshot` -> their shards; an id is spread over them by its slot."""
    shards: list[ShardInfo] = []
    workers: list[WorkerView] = []
    warnings: list[str] = []
    payload_max: int = 0
    """Largest input, output or signal payload in bytes; 0: not said."""
    payload_inline: int = 0
    """Larger values go to the object store (see `headrace.payloads`); 0: there is none."""
    broker: dict[str, Any] = {}
