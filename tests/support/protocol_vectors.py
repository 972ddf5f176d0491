"""Golden bytes of the worker protocol, for workers in any language: `docs/protocol/vectors.json`.

``PYTHONPATH=tests python -m support.protocol_vectors`` writes the file. A vector has the message's
name, where it travels, its bytes (hex) and what they mean: `value` is the msgpack as JSON (maps as
objects, their keys as text), `fields` the same by the names of `docs/protocol.md`. `wide`: a size
is written in more bytes than it needs, so an encoder that does without makes others.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from headrace.messages import (
    CancelStep,
    ChildBegun,
    Claim,
    ClaimReply,
    DigestAccepted,
    DrainWorker,
    Entry,
    EntryDropped,
    EntryState,
    EpochNotice,
    Held,
    LabelsSet,
    LaneOffer,
    LogLine,
    LogLines,
    Query,
    QueryAnswer,
    ResultBatch,
    ResultExtra,
    ResultReply,
    ResultStatus,
    SignalAwaited,
    SleepBegun,
    StepBeat,
    StepClaim,
    StepError,
    StepRan,
    StepResult,
    StepTried,
    Task,
    TaskBatch,
    TaskOptions,
    Turn,
    TurnEnd,
    TurnOutcome,
    TurnReply,
    TurnReport,
    TurnWake,
    UpdateAnswered,
    ValueNoted,
    WorkerHeartbeat,
    encode,
    subjects,
)

VECTORS = Path(__file__).parents[2] / "docs" / "protocol" / "vectors.json"
WORKER, LIFE, RUN, NOW = "js-1", "5f0c4e1d9a72", "default/greet-7", 1_767_225_600_000
LANE = subjects.lane_of("default", ["js", "uses:js/greet"])
RESULTS = subjects.result("default", 3, WORKER)
TASKS = subjects.task("default", LANE, 3)
ORDERS = subjects.worker_orders("default", WORKER, LIFE, ["js"])


def raw(value: Any) -> msgspec.Raw:
    """Return *value* as encoded msgpack inside a message."""
    return msgspec.Raw(encode(value))


def _error(message: str = "try again") -> StepError:
    return StepError("flaky", message, True)


def _task(**options: Any) -> Task:
    chosen = TaskOptions(**options) if options else None
    inputs = raw({"name": "Ada", "tries": 3, "ratio": 0.5, "tags": ["a", None, True]})
    return Task(RUN, 0, "greet/greet", 1, 42, "js/greet", inputs, chosen)


def _result(status: int, output: Any, **more: Any) -> StepResult:
    return StepResult(RUN, 0, 1, 42, status, raw(output), NOW, NOW + 12, **more)


def _entry(**more: Any) -> Entry:
    fields: dict[str, Any] = {
        "key": "charge#1",
        "kind": "step",
        "name": "charge",
        "digest": "9f86d081884c7d65",
        "state": EntryState.COMPLETED,
        "value": raw({"receipt": 17}),
        "started_ms": NOW,
        "ended_ms": NOW + 20,
        "number": 4,
    }
    return Entry(**(fields | more))


def _steps() -> list[tuple[str, str, Any]]:
    """Return (name, subject, message) of what every worker speaks."""
    beat = WorkerHeartbeat(
        version=1,
        id=WORKER,
        incarnation=LIFE,
        namespace="default",
        capabilities=["js"],
        handlers={"js/greet": {"version": "1", "inputs": {"type": "object"}}},
        slots=4,
        free=3,
        started_ms=NOW - 60_000,
        sent_ms=NOW,
        lanes=[LANE],
        held={3: [Held(RUN, 0, 1, True, None)]},
        epochs={3: 7},
    )
    stopped = msgspec.structs.replace(beat, free=0, held={}, draining=True, stopped=True)
    plain = _task()
    full = _task(
        env={"LANG": "C"},
        timeout_ms=60_000,
        at_most_once=True,
        start_by_ms=NOW + 5_000,
        title="greet Ada",
        round=1,
    )
    extra = ResultExtra(handler_version="1", annotations=[{"level": "notice", "message": "hi"}])
    failed = _result(ResultStatus.FAILED, {}, error=_error())
    done = _result(ResultStatus.COMPLETED, {"greeting": "Hello, Ada!"}, extra=extra)
    batch = TaskBatch(1, 3, 7, "default", NOW, [plain])
    line = LogLine(NOW, "stdout", "greeting Ä 日本")
    return [
        ("WorkerHeartbeat", subjects.worker_heartbeat("default", WORKER, ["js"]), beat),
        (
            "WorkerHeartbeat: the last",
            subjects.worker_heartbeat("default", WORKER, ["js"]),
            stopped,
        ),
        ("Held", "", Held(RUN, 0, 1, False, {"done": 40})),
        ("LaneOffer", ORDERS, LaneOffer(LANE, f"default-{LANE}", ["js", "uses:js/greet"])),
        ("EpochNotice", ORDERS, EpochNotice(3, 7, 1)),
        ("CancelStep", ORDERS, CancelStep(RUN, 0, 1, "asked by ada")),
        ("DrainWorker", ORDERS, DrainWorker(10_000)),
        ("TaskBatch", TASKS, batch),
        ("TaskBatch: two, second round", TASKS, TaskBatch(1, 3, 7, "default", NOW, [full] * 2, 1)),
        ("Task", "", plain),
        ("Task: with options", "", full),
        ("TaskOptions", "", full.options),
        ("Claim", RESULTS, Claim(1, WORKER, LIFE, RUN, 0, 1, 42)),
        ("ClaimReply", "", ClaimReply(True, NOW + 3_000)),
        ("StepError", "", _error()),
        ("ResultExtra", "", extra),
        ("StepResult", "", done),
        ("StepResult: failed", "", failed),
        ("ResultBatch", RESULTS, ResultBatch(1, WORKER, LIFE, [done, failed])),
        ("ResultReply", "", ResultReply()),
        ("ResultReply: one refused", "", ResultReply([1], 0)),
        ("ResultReply: later", "", ResultReply([], 250)),
        ("LogLine", "", line),
        ("LogLines", subjects.step_logs(3, RUN), LogLines(1, RUN, 0, "greet/greet", 1, 0, [line])),
    ]


def _turns() -> list[tuple[str, str, Any]]:
    """Return those of code-first runs."""
    tried = StepTried("charge#1", "charge", "9f86d081884c7d65", NOW, NOW + 20, _error(), 500)
    child = ChildBegun(
        "child#1", "shipping", "0011223344556677", b"\x81\xa4name\xa1p", raw({"order": 7})
    )
    changes: list[tuple[str, Any]] = [
        ("StepRan", StepRan("fetch#1", "fetch", "aa", NOW, NOW + 3, raw([1, 2]))),
        ("StepTried", tried),
        ("StepClaim", StepClaim("pay#1", "pay", "aa")),
        ("ValueNoted", ValueNoted("now#1", "now", raw(NOW))),
        ("SleepBegun", SleepBegun("sleep#1", NOW + 60_000)),
        ("SignalAwaited", SignalAwaited("signal:approval#1", "approval", NOW + 86_400_000)),
        ("ChildBegun", child),
        ("EntryDropped", EntryDropped("sleep#1")),
        ("UpdateAnswered", UpdateAnswered("update:address#1", raw("taken"))),
        ("LabelsSet", LabelsSet({"customer": "ada"})),
        ("DigestAccepted", DigestAccepted("charge#1", "ffff000011112222")),
        ("StepBeat", StepBeat("copy#1", "copy", "aa", NOW, raw({"row": 500}))),
    ]
    pending = _entry(
        key="sleep#1", kind="sleep", name="sleep", digest="", state=EntryState.PENDING,
        value=raw(None), due_ms=NOW + 60_000, ended_ms=0, number=5,
    )  # fmt: skip
    query = Query("q1", "progress", raw(None))
    answer = QueryAnswer("q1", raw({"percent": 40}))
    end = TurnEnd(TurnOutcome.WAITING)
    report = TurnReport(
        1, WORKER, LIFE, RUN, 0, 1, 42, 1, 4, [change for _, change in changes[:5]], end, [answer]
    )
    turn = Turn(
        raw({"order_id": "o-7"}), [_entry()], number=4, queries=[query], now_ms=NOW,
        created_ms=NOW - 1_000,
    )  # fmt: skip
    return [
        ("Entry", "", _entry()),
        ("Entry: pending", "", pending),
        *((name, "", change) for name, change in changes),
        ("Query", "", query),
        ("QueryAnswer", "", answer),
        ("Turn", "", turn),
        ("TurnEnd", "", end),
        ("TurnEnd: failed", "", TurnEnd(TurnOutcome.FAILED, error=_error("no stock"))),
        ("TurnReport", RESULTS, report),
        ("TurnReply", "", TurnReply("", [_entry(), pending], 5, [query])),
        ("TurnReply: refused", "", TurnReply("another worker has the turn")),
        ("TurnWake", ORDERS, TurnWake(RUN, 0, 42)),
    ]


def examples() -> list[tuple[str, str, Any]]:
    """Return (name, subject or empty, message) for every vector."""
    return [*_steps(), *_turns()]


def kind_of(name: str) -> str:
    """Return the message's name without what tells two vectors of it apart."""
    return name.partition(":")[0]


def _plain(value: Any) -> Any:
    """Return decoded msgpack as JSON has it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {"$bin": value.hex()} if isinstance(value, bytes) else value


def _named(message: Any) -> Any:
    """Return a message by its fields' names; those that have their defaults are left out."""
    if isinstance(message, msgspec.Struct):
        kept = {}
        for field in msgspec.structs.fields(message):
            value = getattr(message, field.name)
            if field.required or value != field.default:
                kept[field.name] = _named(value)
        return {name: value for name, value in kept.items() if value not in ([], {})}
    if isinstance(message, msgspec.Raw):
        return _plain(msgspec.msgpack.decode(message))
    if isinstance(message, list):
        return [_named(item) for item in message]
    if isinstance(message, dict):
        return {str(key): _named(item) for key, item in message.items()}
    return _plain(message)


def vectors() -> list[dict[str, Any]]:
    """Return all of them as they stand in the file."""
    found = []
    for name, subject, message in examples():
        data = encode(message)
        vector: dict[str, Any] = {"name": name}
        if subject:
            vector["subject"] = subject
        vector["hex"] = data.hex()
        decoded = msgspec.msgpack.decode(data, strict=False)
        if encode(decoded) != data:
            vector["wide"] = True
        vector["value"] = _plain(decoded)
        vector["fields"] = _named(message)
        found.append(vector)
    return found


def text() -> str:
    """Return the file's text: one vector a line."""
    lines = ",\n".join(json.dumps(vector, ensure_ascii=False) for vector in vectors())
    return f'{{"protocol": 1, "vectors": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    VECTORS.write_text(text(), "utf-8")
    print(f"wrote {VECTORS}")
