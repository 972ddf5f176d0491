"""What a run's steps read, called and gave, from the run's history alone.

The inputs of an attempt are no event: they follow from the plan and from what was recorded before.
So the run is folded again, and each attempt's inputs are made where it was scheduled, by the code
that made them for the worker. Expressions that only the worker evaluates (secrets) stay as written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from headrace.coordinator.core.contexts import Contexts, functions
from headrace.coordinator.core.deferral import resolve_for_worker
from headrace.coordinator.core.fold import apply_chunk
from headrace.coordinator.core.histories import history_entries
from headrace.coordinator.core.past import in_order
from headrace.coordinator.core.program import Program
from headrace.coordinator.core.scheduling import input_data
from headrace.coordinator.core.state import UNREADABLE, Run, ShardState
from headrace.coordinator.core.views import run_view
from headrace.errors import HeadraceError, Unavailable
from headrace.events import Chunk, StepScheduled, decode_chunk
from headrace.messages import HistoryEntry, RunView, StepError, StepView, subjects
from headrace.payloads import BLOB_KEY, BLOB_NAME, replaced
from headrace.plan import Task, encode_plan

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode

OUTCOMES = {
    "StepCompleted": "completed",
    "StepFailed": "failed",
    "StepLost": "lost",
    "StepReturned": "returned",
    "StepUnknown": "unknown",
    "StepCancelled": "cancelled",
    "StepSkipped": "skipped",
    "StepCached": "cached",
    "StepCarried": "carried",
}
"""Events that end an attempt, or stand for one."""


FACTS = ("worker", "started_ms", "ended_ms", "error")


class Read(NamedTuple):
    """The inputs of an attempt, as its worker got them."""

    digest: str
    """SHA-256 of their msgpack; empty: they cannot be made again."""
    references: list[str]
    """Large values that stood in them as references into the blob bucket."""


class Told(NamedTuple):
    """A run's history, and what it says."""

    view: RunView
    plans: dict[str, bytes]
    entries: list[HistoryEntry]
    chunks: list[bytes]
    steps: list[dict[str, Any]]


def tell(key: str, programs: Iterable[Program], chunks: Sequence[bytes], *, shard: int) -> Told:
    """Fold run *key* from its whole history (what comes twice counts once), and tell all of it.

    *programs*: all that it went by. Raises `Unavailable` for a history that cannot be read.
    """
    try:
        pairs = in_order([(decode_chunk(data), data) for data in chunks])
        history = [(chunk, data) for chunk, data in pairs if chunk is not None]
    except UNREADABLE as error:
        raise Unavailable(f"the history of run {key} cannot be read: {error}") from error
    state, plans = ShardState(shard), {}
    for program in programs:
        state.programs[program.digest, subjects.split_key(key)[0]] = program
        plans[program.digest] = encode_plan(program.plan)
    reads: dict[tuple[str, int], Read] = {}
    run: Run | None = None
    for chunk, data in history:
        state.now_ms = chunk.time_ms
        apply_chunk(state, data)
        run = state.runs.get(key)
        if run is not None:
            _read(run, chunk, reads)
    if run is None:
        raise Unavailable(f"the history of run {key} cannot be read")
    run.history = [data for _, data in history]
    entries = history_entries(run, run.history, after=0, limit=run.events)
    view = run_view(run, steps=True, shard=shard)
    steps = [
        _record(step, [entry for entry in entries if entry.path == step.path], reads)
        for step in view.steps
        if step.kind == "task"
    ]
    steps += _journal(entries)
    return Told(view, plans, entries, run.history, steps)


def _read(run: Run, chunk: Chunk, reads: dict[tuple[str, int], Read]) -> None:
    for event in chunk.events:
        if isinstance(event, StepScheduled):
            step = event.step if run.patches is None else run.instance(event.step)
            if step >= 0:
                reads[run.path(step), event.attempt] = _inputs(run, step)


def _inputs(run: Run, step: int) -> Read:
    index = run.locate(step)[0]
    node, raw = run.program.nodes[index], run.program.raw_inputs[index]
    assert isinstance(node, Task)
    if raw is None:
        try:
            deferred: dict[str, Any] = {}
            contexts = Contexts(run, step)
            value = resolve_for_worker(
                node.inputs, contexts, functions(run, step), deferred, ("inputs",)
            )
            if run.program.fed[index]:
                value["input_data"] = input_data(run, step)
        except (HeadraceError, LookupError, TypeError, ValueError):
            return Read("", [])
        raw = msgspec.Raw(_encode(value))
    return Read(hashlib.sha256(raw).hexdigest(), _references(raw))


def _references(raw: msgspec.Raw | bytes) -> list[str]:
    if BLOB_KEY not in bytes(raw):
        return []
    found: list[str] = []
    replaced(_decode(raw), lambda value: found.append(value[BLOB_NAME]["ref"]))
    return found


def _record(
    step: StepView, entries: Sequence[HistoryEntry], reads: dict[tuple[str, int], Read]
) -> dict[str, Any]:
    """Return the evidence of one step: what is known of each of its attempts, and what came out."""
    attempts: dict[int, dict[str, Any]] = {}
    for entry in entries:
        number = entry.data.get("attempt", 0)
        if entry.type == "StepScheduled":
            read = reads.get((step.path, number), Read("", []))
            attempts[number] = {
                "attempt": number,
                "inputs": read.digest,
                "references": read.references,
                "events": [entry.number],
            }
        elif entry.type in OUTCOMES:
            attempt = attempts.setdefault(number, {"attempt": number, "events": []})
            attempt["events"].append(entry.number)
            attempt |= _ended(entry)
    output = _encode(step.outputs) if step.outputs is not None else b""
    return {
        "path": step.path,
        "uses": step.uses,
        "state": step.state,
        "attempts": list(attempts.values()),
        "output": hashlib.sha256(output).hexdigest() if output else "",
        "output_references": _references(output) if output else [],
    }


def _journal(entries: Sequence[HistoryEntry]) -> list[dict[str, Any]]:
    """Return the evidence of what a workflow function did: a record for each entry of its journal.

    `inputs` is the digest that the journal has: 16 hex digits of BLAKE2b, made by the worker.
    """
    records: dict[str, dict[str, Any]] = {}
    reported: list[dict[str, Any]] = []
    for entry in entries:
        data = entry.data
        if entry.type == "TurnReported":
            for told in reported:
                told["worker"] = data["worker"]
            reported = []
        if entry.type not in ("EntryBegun", "EntryEnded", "EntryTried", "ChildRunBegun"):
            continue
        name, kind = data["name"], data.get("kind", "child" if "child" in data else "step")
        record = records.setdefault(
            data["key"],
            {
                "path": data["key"],
                "uses": f"{kind}:{name}",
                "state": "PENDING",
                "attempts": [],
                "output": "",
                "output_references": [],
            },
        )
        attempt: dict[str, Any] = {
            "attempt": len(record["attempts"]) + 1,
            "events": [entry.number],
        }
        attempt |= {key: data[key] for key in ("started_ms", "ended_ms", "child") if key in data}
        attempt["inputs"] = data.get("digest", "")
        if "error" in data:
            attempt["error"] = _named(data["error"])
        if entry.type == "EntryEnded":
            state = data["state"]
            record["state"], attempt["outcome"] = state, state.lower()
            value = _encode(data.get("value"))
            record["output"] = hashlib.sha256(value).hexdigest()
            record["output_references"] = _references(value)
        else:
            attempt["outcome"] = "failed" if entry.type == "EntryTried" else "begun"
        record["attempts"].append(attempt)
        reported.append(attempt)
    return list(records.values())


def _named(error: Any) -> Any:
    """Return an error, which histories show as an array, by the names of its fields."""
    found = msgspec.convert(error, StepError)
    return {name: getattr(found, name) for name in StepError.__struct_fields__}


def _ended(entry: HistoryEntry) -> dict[str, Any]:
    data, extra = entry.data, entry.data.get("extra") or {}
    told: dict[str, Any] = {name: data[name] for name in FACTS if name in data}
    if "error" in told:
        told["error"] = _named(told["error"])
    told["outcome"] = OUTCOMES[entry.type]
    if extra.get("handler_version"):
        told["version"] = extra["handler_version"]
    if extra.get("evidence"):
        # What the handler itself says: model, parameters, tools, sources.
        told["evidence"] = extra["evidence"]
    if entry.type == "StepCached":
        told["cached"] = {name: data.get(name) for name in ("run", "path", "time_ms")}
    return told
