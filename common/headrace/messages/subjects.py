"""Names of subjects, streams, buckets and lanes: the only place that spells them."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

SLOTS = 4096
"""Ids hash to this many slots; slots map to shards in the system shard."""

SUBJECT = re.compile(r"[A-Za-z0-9_$-]+(?:\.[A-Za-z0-9_$-]+)*")
SUBJECT_LENGTH_MAX = 256
"""Of the subject of an event, behind the namespace."""

NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
"""What may stand in a subject."""

TRACE_LABEL = "headrace/traceparent"
"""Label of a run whose submitter is in a trace: its context."""

SYSTEM_SHARD = 0

SCHEDULE_LABEL, TIME_LABEL = "headrace/schedule", "headrace/scheduled-for"
"""Labels of a run that a schedule began."""

EVENT_LABEL, EVENT_ID_LABEL = "headrace/event", "headrace/event-id"
"""Labels of a run that an event began: its subject, and its id."""
DEFINITION_LABEL = "headrace/definition"
"""Label of such a run: ``<name>@<version>``."""

TASK_STREAM = "HEADRACE_TASKS"
LOGS_STREAM = "HEADRACE_LOGS"
EVENTS_STREAM = "HEADRACE_EVENTS"
INCOMING_STREAM = "HEADRACE_IN"
INCOMING = "headrace.in."
"""Begins the subjects of events from outside: ``headrace.in.<namespace>.<subject>``."""
INCOMING_DUPLICATES_MS = 600_000
"""The broker drops a message whose `Nats-Msg-Id` it has seen within this time."""
SNAPSHOT_BUCKET = "headrace-snapshots"
BLOB_BUCKET = "headrace-blobs"

INFO = "headrace.info"
"""Any coordinator answers (queue group): `GetInfo` -> `ServerInfo`."""
_ARCHIVE, _ARCHIVE_ALL = "headrace.archive.", "headrace.archive-all."
BACKUP = "headrace.backup"
"""Every coordinator hears a backup or a restore: to stand still, and to say where logs end."""
_INFO_ALL = "headrace.info.all"


def valid_name(name: str) -> bool:
    """Tell whether *name* may be a run id, namespace, worker id or signal name on the wire."""
    return NAME.fullmatch(name) is not None


def valid_subject(subject: str) -> bool:
    """Tell whether *subject* may be that of an event: tokens between dots, no wildcards."""
    return len(subject) <= SUBJECT_LENGTH_MAX and SUBJECT.fullmatch(subject) is not None


def run_key(namespace: str, run: str) -> str:
    """Return the key of a run in all logs and messages below the client interface."""
    return f"{namespace}/{run}"


def split_key(key: str) -> tuple[str, str]:
    """Return (namespace, run id) of a run key."""
    namespace, _, run = key.partition("/")
    return namespace, run


def lock_key(namespace: str, name: str) -> str:
    """Return the key of a lock; it is hashed by that. No namespace has a colon."""
    return f"lock:{namespace}/{name}"


def rate_key(namespace: str, name: str) -> str:
    """Return the key of a rate limit, likewise."""
    return f"rate:{namespace}/{name}"


def cache_key(namespace: str, digest: str, name: str) -> str:
    """Return the key of a cached result, likewise; *digest*: of what the step does."""
    return f"cache:{namespace}/{digest}/{name}"


def is_lock(key: str) -> bool:
    """Tell whether a key is a lock's."""
    return key.startswith("lock:")


def schedule_home(key: str) -> str:
    """Return what a schedule's key (``<namespace>/<name>``) is hashed by.

    The schedules of a definition (``name.1``, ``name.2``) live in one shard.
    """
    return "schedule:" + key.partition(".")[0]


def scheduled_run(key: str, nominal_ms: int) -> str:
    """Return the key of the run that schedule *key* begins at a time: always the same one.

    ``default/nightly`` -> ``default/nightly-20260131T020000Z``; the second schedule of a
    definition, ``default/report.2``: ``default/report-20260131T020000Z-2``.
    """
    stem, _, number = key.partition(".")
    moment = datetime.fromtimestamp(nominal_ms / 1_000, UTC)
    return f"{stem}-{moment:%Y%m%dT%H%M%SZ}" + (f"-{number}" if number else "")


def scheduled_labels(key: str, nominal_ms: int) -> dict[str, str]:
    """Return the labels of that run."""
    moment = datetime.fromtimestamp(nominal_ms / 1_000, UTC)
    return {SCHEDULE_LABEL: split_key(key)[1], TIME_LABEL: f"{moment:%Y-%m-%dT%H:%M:%SZ}"}


def incoming(namespace: str, subject: str) -> str:
    """Where an event of a namespace is published, by any client of the broker."""
    return f"{INCOMING}{namespace}.{subject}"


def event_run(key: str, stream: str, sequence: int) -> str:
    """Return the key of the run of definition *key* that an event begins: always the same one.

    *stream* tells the stream from a later one of its name, whose numbers begin anew:
    ``default/order`` -> ``default/order-e42-5f1c0a``.
    """
    digest = hashlib.blake2b(stream.encode(), digest_size=3).hexdigest()
    return f"{key}-e{sequence}-{digest}"


def matches(pattern: Sequence[str], tokens: Sequence[str]) -> bool:
    """Tell whether a pattern covers a subject, both split at dots: `*` one token, `>` the rest."""
    for index, wanted in enumerate(pattern):
        if wanted == ">":
            return index < len(tokens)
        if index >= len(tokens) or wanted not in ("*", tokens[index]):
            return False
    return len(pattern) == len(tokens)


def slot_of(key: str) -> int:
    """Return the slot (0 to 4095) of a run key or of another entity's key."""
    return zlib.crc32(key.encode()) % SLOTS


def lane_of(namespace: str, capabilities: Iterable[str]) -> str:
    """Return the lane for a set of needed capabilities: a digest, stable in any order."""
    canonical = "\x00".join(sorted({capability.lower() for capability in capabilities}))
    return hashlib.blake2b(f"{namespace}\x01{canonical}".encode(), digest_size=10).hexdigest()


def labels_of(capabilities: Iterable[str]) -> str:
    """Return a token for what a worker offers: a digest that is made in any language."""
    canonical = "\n".join(sorted({capability.lower() for capability in capabilities}))
    return hashlib.sha256(canonical.encode()).hexdigest()[:20]


def pinned_lane(worker: str, incarnation: str) -> str:
    """Return the lane that one life of one worker alone reads."""
    return f"@{worker}-{incarnation}"


def log(shard: int) -> str:
    """Event batches of a shard."""
    return f"headrace.log.{shard}"


def log_epoch(shard: int) -> str:
    """Ownership records of a shard."""
    return f"headrace.log.{shard}.epoch"


def log_stream(shard: int) -> str:
    """Name of the stream with both."""
    return f"HEADRACE_LOG_{shard}"


def task(namespace: str, lane: str, shard: int | str) -> str:
    """Tasks of one shard in one lane (``*`` for the consumer's filter)."""
    return f"headrace.task.{namespace}.{lane}.{shard}"


def task_consumer(namespace: str, lane: str, secret: str = "") -> str:
    """Name of a lane's durable consumer.

    *secret* makes it one that cannot be guessed: who is not told the name cannot pull from it,
    since permissions on subjects cannot tell one consumer from another.
    """
    name = f"{namespace}-{lane.replace('@', 'w-')}"
    if not secret:
        return name
    tag = hashlib.blake2b(name.encode(), digest_size=12, key=secret.encode()).hexdigest()
    return f"{name}-{tag}"


def command(namespace: str, shard: int | str) -> str:
    """Clients' commands and queries to the owner of a shard."""
    return f"headrace.cmd.{namespace}.{shard}"


def result(namespace: str, shard: int | str, worker: str) -> str:
    """Results and claims of one worker to the owner of a shard."""
    return f"headrace.result.{namespace}.{shard}.{worker}"


def archive(namespace: str) -> str:
    """Any coordinator answers (queue group): queries about closed runs of a namespace."""
    return f"{_ARCHIVE}{namespace}"


def everybody(subject: str) -> str:
    """Return where a question to a queue group (`INFO`, `archive`) reaches every coordinator.

    For when the one that the broker chose does not answer; empty: *subject* is no such group's.
    """
    if subject == INFO:
        return _INFO_ALL
    if subject.startswith(_ARCHIVE):
        return _ARCHIVE_ALL + subject[len(_ARCHIVE) :]
    return ""


def store(namespace: str) -> str:
    """Any coordinator answers (queue group): large values and output lines of a namespace, for
    those whose login reaches no stream."""
    return f"headrace.store.{namespace}"


def coordinator_heartbeat(coordinator: str) -> str:
    """Heartbeats of a coordinator."""
    return f"headrace.hb.coordinator.{coordinator}"


WORKER_HEARTBEATS = "headrace.hb.worker.*.*.*"
"""Those of all workers."""


def worker_heartbeat(namespace: str, worker: str, capabilities: Iterable[str]) -> str:
    """Heartbeats of a worker; what it may say of itself is in the subject, see `worker_rights`."""
    return f"headrace.hb.worker.{namespace}.{labels_of(capabilities)}.{worker}"


def worker_orders(
    namespace: str, worker: str, incarnation: str, capabilities: Iterable[str]
) -> str:
    """What coordinators tell one life of a worker: the names of its lanes' consumers, too."""
    labels = labels_of(capabilities)
    return f"headrace.worker.{namespace}.{labels}.{worker}.{incarnation}"


def peer(shard: int) -> str:
    """Outbox messages of other shards to the owner of *shard*."""
    return f"headrace.peer.{shard}"


def parts(coordinator: str, token: str) -> str:
    """Parts of a large reply that one coordinator keeps for a moment."""
    return f"headrace.parts.{coordinator}.{token}"


def step_logs(shard: int | str, key: str) -> str:
    """Output lines of one run's steps (*key*: its run key)."""
    return f"headrace.logs.{shard}.{key.replace('/', '.')}"


def events(shard: int | str) -> str:
    """The public feed of a shard."""
    return f"headrace.events.{shard}"


def artifact(run: str, name: str) -> str:
    """Return the name of an artifact of *run* (a run key) in the blob bucket."""
    return f"{run}/artifact.{name}"
