"""The whole state as bytes, and its hash: the same state gives the same bytes on every replica."""

from __future__ import annotations

import hashlib
from array import array
from typing import Any

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.gate import Gate
from headrace.coordinator.core.journal import Journal, JournalImage
from headrace.coordinator.core.key_record import KeyRecord
from headrace.coordinator.core.renumbering import Move, Patches
from headrace.coordinator.core.saga import Saga
from headrace.coordinator.core.scopes import Counts, Scope
from headrace.coordinator.core.state import (
    UNREADABLE,
    Family,
    Job,
    OutMessage,
    Run,
    ShardState,
    Signal,
    Tombstone,
)
from headrace.coordinator.core.trigger_image import TriggerImage, image_of, restore
from headrace.errors import HeadraceError
from headrace.messages import StepError

SNAPSHOT_VERSION = 1


class BadSnapshot(HeadraceError):
    """A snapshot cannot be read by this release."""

    code = "bad-snapshot"


class RunImage(msgspec.Struct, array_like=True, gc=False):
    """One run as plain data. The order of the fields is the format.

    Equal runs give equal bytes, and parked runs are hashed as the bytes that they were loaded as:
    a release that encodes any of this otherwise adds a field (see `outline.parkable`).
    """

    key: str
    plan: str
    state: int
    times: list[int]
    input: bytes
    output: bytes
    labels: dict[str, str]
    priority: int
    request: list[Any]
    carried: dict[str, bytes] | None
    status: bytes
    attempt: bytes
    waiting: bytes
    taint: bytes
    tokens: list[list[int]]
    outputs: list[tuple[int, bytes]]
    errors: list[tuple[int, StepError]]
    due: list[list[int]]
    first_ms: list[list[int]]
    losses: list[list[int]]
    claims: list[tuple[int, str]]
    waits: list[tuple[int, str]]
    sets: list[list[int]]
    """tolerated, doomed, detached."""
    counts: list[tuple[int, list[int]]]
    jobs: list[tuple[int, list[Any]]]
    scopes: list[list[Any]]
    signals: list[tuple[str, bytes, str, int]]
    flags: list[bool]
    texts: list[str]
    key_name: str
    key_facts: list[Any]
    node_keys: list[tuple[int, str, str]]
    events: int
    history_first: int
    history: list[bytes]
    uncounted: list[list[int]] = []
    family: list[Any] | None = None
    """parent, its shard, children, awaited."""
    faults: list[Any] = []
    """held, handlers, undo, sagas, rounds, uncompensated; stopped, if there are any."""
    names: list[str] = []
    """title, actor; none if both are empty."""
    fairness: list[Any] = []
    """key, weight; none without a key."""
    gates: list[tuple[int, list[Any]]] = []
    variables: dict[str, str] | None = None
    patches: list[Any] = []
    """[event, plan before, spans, gone] of each, and the wire numbers; none of a run without."""
    sticky: list[tuple[int, str]] = []
    journal: JournalImage | None = None


class KeyImage(msgspec.Struct, array_like=True, gc=False):
    """One concurrency key as plain data. The order of the fields is the format."""

    key: str
    limit: int
    holders: list[tuple[str, int]]
    waiters: list[tuple[str, int]]
    audit_ms: int = 0
    rest: list[Any] = []
    """Of locks and rate limits: terms, period, places that cool down."""


class StateImage(msgspec.Struct, array_like=True, gc=False):
    """A shard's state as plain data."""

    version: int
    shard: int
    now_ms: int
    batch: list[Any]
    """index, position, hash."""
    token_last: int
    plans: list[tuple[str, bytes]]
    runs: list[msgspec.Raw]
    tombstones: list[tuple[str, str, int, int]]
    requests: list[tuple[str, int]]
    keys: list[KeyImage]
    outbox: list[tuple[str, OutMessage]]
    snapshots: list[tuple[int, str, str]]
    settings: dict[str, Any]
    triggers: TriggerImage = msgspec.field(default_factory=TriggerImage)
    namespaces: list[tuple[str, float, int]] = []
    sticky: list[tuple[str, int, str]] = []
    kept: list[tuple[str, list[Any]]] = []
    """Results of steps that are kept for others, the oldest first."""
    variables: list[tuple[str, int, dict[str, str]]] = []


# Maps keep the order that they have in the log: it is the same on all replicas, and it shows
# (`toJSON(matrix)`).
_encoder = msgspec.msgpack.Encoder()
_state_decoder = msgspec.msgpack.Decoder(StateImage)
_run_decoder = msgspec.msgpack.Decoder(RunImage)


def _pairs(values: dict[int, int]) -> list[list[int]]:
    return [[key, values[key]] for key in sorted(values)]


def _figures(pairs: list[list[int]]) -> dict[int, int]:
    return {key: value for key, value in pairs}


def encode_run(run: Run) -> bytes:
    """Return one run as bytes."""
    return _encoder.encode(
        RunImage(
            key=run.key,
            plan=run.program.digest,
            state=run.state,
            times=[run.created_ms, run.started_ms, run.finished_ms],
            input=run.input,
            output=run.output,
            labels=run.labels,
            priority=run.priority,
            request=[
                run.request_id,
                run.not_after_ms,
                run.fingerprint,
                run.explicit,
                run.rerun_of,
            ],
            carried=run.carried,
            status=bytes(run.status),
            attempt=run.attempt.tobytes(),
            waiting=run.waiting.tobytes(),
            taint=bytes(run.taint),
            tokens=_pairs(run.tokens),
            outputs=sorted(run.outputs.items()),
            errors=sorted(run.errors.items(), key=lambda pair: pair[0]),
            due=_pairs(run.due),
            first_ms=_pairs(run.first_ms),
            losses=_pairs(run.losses),
            claims=sorted(run.claims.items()),
            waits=sorted(run.waits.items()),
            sets=[sorted(run.tolerated), sorted(run.doomed), sorted(run.detached)],
            counts=[(key, run.counts[key].image()) for key in sorted(run.counts)],
            jobs=[
                (key, [job.worker, job.restarts, job.first, job.env, job.path])
                for key, job in sorted(run.jobs.items())
            ],
            scopes=[[s.base, s.body, s.loop, s.index, s.item, s.label] for s in run.scopes],
            signals=[(s.name, s.payload, s.actor, s.time_ms) for s in run.signals],
            flags=[run.paused, run.cancelling, run.failing, run.key_held],
            texts=[run.pause_reason, run.cancel_reason, run.ended_reason, run.quarantined],
            key_name=run.key_name,
            key_facts=[run.key_limit, run.key_mode],
            node_keys=[(node, *pair) for node, pair in sorted(run.node_keys.items())],
            events=run.events,
            history_first=run.history_first,
            history=run.history,
            uncounted=_pairs(run.uncounted),
            family=_family_image(run.family),
            faults=_faults(run),
            names=[run.title, run.actor] if run.title or run.actor else [],
            sticky=sorted(run.sticky.items()),
            fairness=[run.fair_key, run.fair_weight] if run.fair_key else [],
            gates=[(node, run.gates[node].image()) for node in sorted(run.gates)],
            variables=run.variables,
            patches=_patches_image(run.patches),
            journal=run.journal.image() if run.journal is not None else None,
        )
    )


def run_bytes(state: ShardState, key: str) -> bytes:
    """Return an open run as bytes; those of a parked one are what it is kept as."""
    run = state.runs.record(key)
    return state.runs.parked[key] if run is None else encode_run(run)


def _family_image(family: Family | None) -> list[Any] | None:
    if family is None:
        return None
    children = sorted(family.children.items())
    image = [family.parent, family.parent_shard, children, sorted(family.awaited)]
    return [*image, sorted(family.stopping.items())] if family.stopping else image


def _family(image: list[Any] | None) -> Family | None:
    if image is None:
        return None
    family = Family(image[0], image[1])
    family.children, family.awaited = {node: child for node, child in image[2]}, set(image[3])
    family.stopping = {holder: node for more in image[4:] for holder, node in more}
    return family


def _patches_image(patches: Patches | None) -> list[Any]:
    if patches is None:
        return []
    moves = [
        [move.event, move.program.digest, move.spans, sorted(move.gone.items())]
        for move in patches.moves
    ]
    return [moves, _pairs(patches.wired)]


def _patches(state: ShardState, namespace: str, image: list[Any]) -> Patches | None:
    if not image:
        return None
    moves = [
        Move(event, state.program(plan, namespace), spans, dict(gone))
        for event, plan, spans, gone in image[0]
    ]
    return Patches(moves, _figures(image[1]))


def _faults(run: Run) -> list[Any]:
    faults = (run.held, run.handlers, run.undo, run.sagas, run.rounds, run.uncompensated)
    if not (any(faults) or run.stopped):
        return []
    return [
        _pairs(run.held),
        _pairs(run.handlers),
        list(run.undo),
        [(group, run.sagas[group].image()) for group in sorted(run.sagas)],
        _pairs(run.rounds),
        run.uncompensated,
        *([_pairs(run.stopped)] if run.stopped else []),
    ]


def _restore_faults(run: Run, faults: list[Any]) -> None:
    if not faults:
        return
    held, handlers, undo, sagas, rounds, run.uncompensated, *more = faults
    run.stopped = _figures(more[0]) if more else {}
    run.held, run.handlers, run.rounds = map(_figures, (held, handlers, rounds))
    run.undo = dict.fromkeys(undo)
    run.sagas = {group: Saga.of(figures) for group, figures in sagas}


def decode_run(state: ShardState, data: bytes | msgspec.Raw) -> Run:
    """Return the run in *data*; its plan must be in *state*."""
    image = _run_decoder.decode(data)
    run = Run(image.key, state.program(image.plan, image.key.partition("/")[0]))
    run.state = image.state
    run.created_ms, run.started_ms, run.finished_ms = image.times
    run.input, run.output = image.input, image.output
    run.labels, run.priority, run.carried = image.labels, image.priority, image.carried
    run.request_id, run.not_after_ms, run.fingerprint, run.explicit, run.rerun_of = image.request
    run.status, run.taint = bytearray(image.status), bytearray(image.taint)
    run.attempt, run.waiting = array("H", image.attempt), array("I", image.waiting)
    run.tokens, run.outputs = _figures(image.tokens), dict(image.outputs)
    run.errors, run.due = dict(image.errors), _figures(image.due)
    run.first_ms, run.losses = _figures(image.first_ms), _figures(image.losses)
    run.uncounted = _figures(image.uncounted)
    run.title, run.actor = image.names or ("", "")
    run.fair_key, run.fair_weight = image.fairness or ("", 1.0)
    run.claims, run.waits, run.sticky = map(dict, (image.claims, image.waits, image.sticky))
    run.tolerated, run.doomed, run.detached = map(set, image.sets)
    run.counts = {key: Counts.of(figures) for key, figures in image.counts}
    for key, figures in image.jobs:
        job = Job()
        job.worker, job.restarts, job.first, job.env, job.path = figures
        run.jobs[key] = job
    for figures in image.scopes:
        scope = Scope(*figures)
        run.scopes.append(scope)
        run.scope_bases.append(scope.base)
        if run.status[scope.base] != status.TEMPLATE:
            run.iterations.setdefault(scope.loop, []).append(scope.base)
    run.signals = [Signal(*figures) for figures in image.signals]
    run.paused, run.cancelling, run.failing, run.key_held = image.flags
    run.pause_reason, run.cancel_reason, run.ended_reason, run.quarantined = image.texts
    run.key_name, (run.key_limit, run.key_mode) = image.key_name, image.key_facts
    run.node_keys = {node: (key, holder) for node, key, holder in image.node_keys}
    run.journal, run.variables, run.gates, run.patches = (
        None if image.journal is None else Journal.of(image.journal),
        image.variables,
        {node: Gate.of(facts) for node, facts in image.gates},
        _patches(state, run.program.namespace, image.patches),
    )
    _restore_faults(run, image.faults)
    run.family, run.active = _family(image.family), len(run.tokens)
    run.events, run.history_first, run.history = image.events, image.history_first, image.history
    run.history_bytes = sum(map(len, run.history))
    return run


def _image(state: ShardState) -> StateImage:
    return StateImage(
        version=SNAPSHOT_VERSION,
        shard=state.shard,
        now_ms=state.logged_ms,
        batch=[state.batch_index, state.batch_position, state.batch_hash],
        token_last=state.token_last,
        plans=sorted(state.plans.items()),
        runs=[msgspec.Raw(run_bytes(state, key)) for key in sorted(state.runs)],
        tombstones=[
            (key, t.fingerprint, t.state, t.expires_ms)
            for key, t in sorted(state.tombstones.items())
        ],
        requests=sorted(state.requests.items()),
        keys=key_images(state),
        outbox=sorted(state.outbox.items()),
        snapshots=state.snapshots,
        settings=state.settings,
        triggers=image_of(state),
        namespaces=namespace_images(state),
        sticky=sticky_images(state),
        kept=state.kept.image(),
        variables=variable_images(state),
    )


def key_images(state: ShardState) -> list[KeyImage]:
    """Return the concurrency keys as plain data."""
    return [
        KeyImage(
            key,
            record.limit,
            sorted(record.holders.items()),
            list(record.waiters.items()),
            record.audit_ms,
            record.rest(),
        )
        for key, record in sorted(state.keys.items())
    ]


def sticky_images(state: ShardState) -> list[tuple[str, int, str]]:
    """Return which worker last ran each sticky key as plain data."""
    return [(key, *state.sticky[key]) for key in sorted(state.sticky)]


def namespace_images(state: ShardState) -> list[tuple[str, float, int]]:
    """Return the settings of namespaces as plain data."""
    return [(name, *state.namespaces[name]) for name in sorted(state.namespaces)]


def variable_images(state: ShardState) -> list[tuple[str, int, dict[str, str]]]:
    """Return the variables of namespaces as plain data."""
    return [(name, *state.variables[name]) for name in sorted(state.variables)]


def _hash(image: StateImage) -> str:
    # A leader's clock may be ahead of its last batch, and a batch's place in the log is not
    # state: both are left out.
    plain = msgspec.structs.replace(image, now_ms=0, batch=[image.batch[0], 0, image.batch[2]])
    return hashlib.blake2b(_encoder.encode(plain), digest_size=16).hexdigest()


def encode_state(state: ShardState) -> bytes:
    """Return the state as bytes; equal states give equal bytes."""
    return _encoder.encode(_image(state))


def encode_hashed(state: ShardState) -> tuple[bytes, str]:
    """Return (bytes, hash) of the state in one pass over it."""
    image = _image(state)
    return _encoder.encode(image), _hash(image)


def decode_image(data: bytes) -> StateImage:
    """Return the plain data in *data*, its runs still encoded; raises `BadSnapshot`."""
    try:
        image = _state_decoder.decode(data)
    except UNREADABLE as error:
        raise BadSnapshot(f"unreadable snapshot: {error}") from error
    if image.version != SNAPSHOT_VERSION:
        raise BadSnapshot(
            f"snapshot of version {image.version}: a newer release wrote it; start that release or "
            "a later one"
        )
    return image


def restore_rest(state: ShardState, image: StateImage) -> None:
    """Put everything into *state* that is in *image*, but for the plans and the runs."""
    state.now_ms = state.logged_ms = image.now_ms
    state.token_last = image.token_last
    state.batch_index, state.batch_position, state.batch_hash = image.batch
    for key, fingerprint, outcome, expires_ms in image.tombstones:
        state.tombstones[key] = Tombstone(fingerprint, outcome, expires_ms)
        state.expiries.append((expires_ms, key, True))
    state.requests = dict(image.requests)
    state.expiries.extend((when, request, False) for request, when in image.requests)
    state.expiries.sort()
    for found in image.keys:
        record = state.keys[found.key] = KeyRecord(found.limit)
        record.holders, record.waiters = dict(found.holders), dict(found.waiters)
        record.audit_ms = found.audit_ms
        record.restore(found.rest)
    state.kept.restore(image.kept)
    state.outbox = dict(image.outbox)
    state.snapshots = image.snapshots
    state.settings = image.settings
    restore(state, image.triggers)
    state.sticky = {key: (time_ms, worker) for key, time_ms, worker in image.sticky}
    state.variables = {name: (number, values) for name, number, values in image.variables}
    state.namespaces = {name: (weight, number) for name, weight, number in image.namespaces}


def state_hash(state: ShardState) -> str:
    """Return a digest of everything that the log folds to at the last applied batch."""
    return _hash(_image(state))
