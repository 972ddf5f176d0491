"""Examples of everything that the shard logs hold, and how their golden bytes are made.

``PYTHONPATH=tests python -m support.core_golden v2`` writes a new folder below `tests/golden`; one
that is there is never written again: its bytes are in somebody's log.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from headrace.coordinator.core import ShardState, encode_state, status
from headrace.events import (
    BATCH_VERSION,
    Batch,
    BegunByEvent,
    CacheAsked,
    CacheCleared,
    CacheStored,
    CancelRequested,
    ChildEnded,
    ChildRefused,
    ChildRunBegun,
    ChildStarted,
    ChildStopped,
    CompensationScheduled,
    CompensationStarted,
    DebounceEnded,
    DefinitionRegistered,
    DefinitionsDeleted,
    EntryAccepted,
    EntryBeat,
    EntryBegun,
    EntryEnded,
    EntryTried,
    EventRunDeclined,
    EventsTaken,
    Expanded,
    HeldForQuiet,
    JobMoved,
    JobRestarted,
    KeyAudited,
    KeyDeclined,
    KeyGranted,
    KeyGrantedTo,
    KeyLost,
    KeyReleased,
    KeyRequested,
    KeysCooled,
    KeyWaited,
    LabelsChanged,
    LockRenewed,
    NamespaceChanged,
    NodeEnded,
    NodeRestarted,
    NodeStarted,
    OutboxCleared,
    PlanPatched,
    PlansForgotten,
    PlanStored,
    RequestSeen,
    RunCreated,
    RunEnded,
    RunEvicted,
    RunPaused,
    RunQuarantined,
    RunResumed,
    RunStarted,
    RunUnblocked,
    ScheduleCreated,
    ScheduleDeleted,
    ScheduleFired,
    SchedulePaused,
    ScheduleRunEnded,
    SchedulesApplied,
    SegmentArchived,
    SettingsChanged,
    SignalReceived,
    SleepStarted,
    SnapshotRegistered,
    StartDeclined,
    StepCached,
    StepCancelled,
    StepCarried,
    StepClaimed,
    StepCompleted,
    StepFailed,
    StepKeyed,
    StepLost,
    StepQueued,
    StepResolved,
    StepReturned,
    StepScheduled,
    StepSkipped,
    StepsStopped,
    StepUnknown,
    TriggerFailed,
    TurnDue,
    TurnEnded,
    TurnReported,
    VariablesChanged,
    WaitEnded,
    WaitStarted,
    encode_batch,
    encode_chunk,
)
from headrace.messages import (
    ResultExtra,
    ScheduleSpec,
    SignalAwaited,
    SleepBegun,
    StepError,
    StepRan,
    TurnOutcome,
)
from headrace.messages import TurnEnd as Ending
from support.codekit import CodeKit, code_plan, raw
from support.plans import group, job, join, key, loop, plan, retry, sleep, task, wait

GOLDEN = Path(__file__).parent.parent / "golden"
STATES = GOLDEN / "states"
"""What the logs and snapshots of each version fold to, in words."""
MS = 1_700_000_000_000
_map = msgspec.Raw(msgspec.msgpack.encode({"n": 1}))
_error = StepError("ValueError", "no", False)

RUN_EVENTS: list[Any] = [
    RunCreated(
        "wf",
        "d" * 32,
        _map,
        "q1",
        MS,
        "f" * 24,
        {"team": "a"},
        3,
        True,
        "old",
        "ann",
        True,
        "default/deploy",
        2,
        3,
        {"a": b"\x80"},
        "default/p#3.1",
        2,
        "a title",
        ("tenant", 2.5),
    ),
    RunStarted(),
    StepScheduled(1, 1, 7, "0123456789abcdef0123"),
    StepCompleted(
        1,
        1,
        "w1.k3",
        MS,
        MS + 5,
        _map,
        ResultExtra(
            env={"A": "1"},
            path=["/bin"],
            summary="done",
            annotations=[{"level": "notice"}],
            exit_code=0,
            handler_version="1.2",
        ),
    ),
    StepFailed(1, 2, "w1.k3", MS, MS + 5, StepError("exit-code", "1", True), MS + 9, _map),
    StepLost(1, 1, "w1.k3", "worker w1 is lost"),
    StepReturned(1, 1, "w1.k3"),
    StepClaimed(1, 1, "w1.k3", MS + 1_000),
    StepUnknown(1, 1, "w1.k3", True),
    StepSkipped(1, "condition"),
    StepCancelled(1, 1, "w1.k3", "enough"),
    StepCarried(1, _map),
    StepQueued(1, MS + 60_000),
    NodeStarted(2, MS + 1, "default/db"),
    NodeEnded(2, 5, _map, "timeout: its timeout passed", True, True),
    Expanded(3, 0, [{"os": "l"}, 2, None], 3, ["l", "2", "x"], 2, True, 3, MS),
    SleepStarted(4, MS + 2),
    WaitStarted(5, "approval", MS + 3),
    WaitEnded(5, "signal", _map),
    SignalReceived("approval", _map, "q2", MS, "ann"),
    StepKeyed(4, "tenant-7"),
    StepsStopped(7, [4, 5]),
    CancelRequested("enough", "q3", MS, "ann", True, [1, 2]),
    RunPaused("q4", MS, "maintenance", "ann"),
    RunResumed("q5", MS, "ann"),
    RunEnded(4, "fine", _map),
    JobRestarted(2, "w1.k3", "worker w1 did not come back"),
    JobMoved(2, "w1.k3", "worker w1 did not come back"),
    KeyGranted(-1, "default/deploy"),
    KeyRequested(2, "default/db", 2, 1),
    SegmentArchived(17),
    RunQuarantined("ValueError: x"),
    ChildStarted(6, 1, "r-0123456789abcdef", _map, True, MS),
    ChildEnded(6, 5, _map, "child: run c ended FAILED: no", True),
    ChildStopped(6, 1),
    StepResolved(1, "completed", _map, True, 4, "q7", MS, "ann"),
    CompensationStarted(2, 5, 1, "timeout: its timeout passed", True),
    CompensationScheduled(4, 1),
    NodeRestarted(2, MS),
    KeyLost(2, "lock:default/db", "expired"),
    PlanPatched(
        "e" * 32, "d" * 32, [(0, 3, 0), (4, 2, 5)], "q12", MS, "ann", ["new"], ["old"], ["b"]
    ),
    StepCached(1, _map, "earlier", "build/deps", MS, ResultExtra(env={"A": "1"}, path=["/bin"])),
]
RUN_EVENTS += [
    TurnReported(1, 2, 3, "w.1"),
    EntryBegun("u:1", "update", "add", "", 0, MS, _map, _map, "q5", MS, "ann"),
    EntryEnded("a#1", "step", "a", "d" * 16, 2, MS, MS + 5, _map, _error, "paid:7"),
    EntryTried("a#1", "a", "d" * 16, MS, MS + 5, _error, MS + 9, _map),
    ChildRunBegun("c#1", "other", "d" * 16, "r-1", "e" * 32, _map, True),
    TurnEnded(1, 2, "w.1", 4, _map, _error, "a#1", True),
    TurnDue("a#1"),
    RunUnblocked("skip", "a#1", "q6", MS, "ann"),
    LabelsChanged({"team": "b"}),
    EntryAccepted("a#1", "f" * 16),
    EntryBeat("a#1", "a", "d" * 16, MS, _map),
]

SHARD_EVENTS: list[Any] = [
    PlanStored("d" * 32, b"\x80"),
    RunEvicted("default/r", "f" * 24, 4, MS),
    SnapshotRegistered(9, "snap-9", "a" * 32),
    RequestSeen("q6", MS),
    PlansForgotten(["d" * 32]),
    KeyWaited("default/deploy", "default/r", 2, 3, 1),
    KeyGrantedTo("default/deploy", "default/r"),
    KeyReleased("default/deploy", "default/r", "replaced"),
    KeyDeclined("default/deploy", "default/r"),
    OutboxCleared("acquire:default/deploy:default/r"),
    SettingsChanged({"layout": {"journal": 8}}),
    NamespaceChanged("payments", 3.0, 2, "q9", MS, "ann"),
    VariablesChanged("payments", {"A": "1", "b": "x"}, 2, "b", "q9", MS, "ann"),
    DefinitionRegistered("default/order", "1.0", "d" * 32, 3, "q7", MS, "ann"),
    DefinitionsDeleted("default/order", ["1.0", "1"], "q8", MS, "ann"),
    ChildRefused("default/c", "default/r#6.1", 1, "expression: no"),
    ScheduleCreated(
        "default/nightly",
        ScheduleSpec(
            cron="0 2 * * *",
            timezone="Europe/Berlin",
            catch_up="all",
            window_ms=1,
            overlap="queue",
            jitter_ms=2,
            input={"n": 1},
            workflow="order@1",
        ),
        "d" * 32,
        MS,
        MS + 5,
        "q9",
        MS,
        "ann",
    ),
    SchedulePaused("default/nightly", True, MS, MS + 5, "q10", MS, "night", "ann"),
    ScheduleFired("default/nightly", [MS], [MS + 1], MS + 2, MS + 3, True, ["default/r"]),
    ScheduleRunEnded("default/nightly", "default/r", "it could not begin"),
    ScheduleDeleted("default/nightly", "q11", MS, "ann"),
    SchedulesApplied("default/order", 7),
    StartDeclined("default/r", "default/nightly", "it is another one"),
    KeyAudited("default/deploy", ["default/r"], MS + 300_000),
    EventsTaken(
        "2026-01-01T00:00:00Z",
        42,
        [BegunByEvent("default/order", "d" * 32, "default/order-e42-a1b2c3", b"\x80", {"a": "1"})],
        [("default/order", "event 41 (orders.new): its data is not JSON")],
        [
            HeldForQuiet(
                "default/order#1:o1",
                BegunByEvent("default/order", "d" * 32, "default/order-e41-a1b2c3", b"\x80", {}),
                MS + 5_000,
            )
        ],
    ),
    DebounceEnded("default/order#1:o1"),
    EventRunDeclined("default/order-e42-a1b2c3", "default/order", "it is another one"),
    TriggerFailed("default/order", "default/order-e42-a1b2c3", "it is another one"),
    KeysCooled(["rate:default/api"]),
    LockRenewed("lock:default/db", "@q12", MS + 30_000, "q13", MS),
    CacheAsked("cache:default/d/k", "default/r#1.2", 2),
    CacheStored(
        "cache:default/d/k",
        b"\x80",
        "default/r",
        "build/deps",
        MS,
        MS + 60_000,
        ResultExtra(env={"A": "1"}),
        ["cache:default/d/j"],
    ),
    CacheCleared(["cache:default/d/k"], "q14", MS, "ann"),
]


def known_to(version: str) -> tuple[list[Any], list[Any]]:
    """Return the examples of run and shard events with the fields that the release of *version*
    knew; the others have their defaults."""
    if version in ("v1", "v2", "v3", "v4", "v5", "v6", "v7"):
        created = msgspec.structs.replace(RUN_EVENTS[0], title="", fairness=None)
        if version in ("v1", "v2"):
            created = msgspec.structs.replace(created, parent="", parent_shard=-1)
        return [created, *RUN_EVENTS[1:]], SHARD_EVENTS
    return RUN_EVENTS, SHARD_EVENTS


def batch() -> Batch:
    """Return an entry with every event in it."""
    chunk = encode_chunk("default/r", 1, MS, RUN_EVENTS)
    return Batch(
        BATCH_VERSION,
        "b1.0",
        7,
        6,
        b"\x01" * 8,
        3,
        MS,
        True,
        [SHARD_EVENTS[0]],
        [msgspec.Raw(chunk)],
        SHARD_EVENTS[1:],
    )


def scenario() -> CodeKit:
    """Return a shard with something of everything in its state."""
    kit = CodeKit()
    kit.start(
        plan(
            job("j", task("a"), task("b")),
            loop("l", group("g", task("x"), task("y")), {"z": [1, 2], "a": ["v"]}, kind="matrix"),
            task("r", retry=retry(9)),
            task("p", effect="at-most-once"),
            group("d", task("x"), wait("w", "never"), join=join("any", losers="detach")),
            sleep("s", 99_000),
            job("k", task("a"), concurrency=key("db")),
        ),
        "one",
        labels={"b": "1", "a": "2"},
        input={"q": 1},
    )
    kit.start(plan(task("a"), concurrency=key("k")), "two", explicit=True)
    kit.start(plan(task("a"), concurrency=key("k")), "three", carried={"zz": b"\x80"})
    kit.start(plan(group("empty")), "four", explicit=True)
    extra = ResultExtra(env={"E": "1"}, path=["/p"])
    kit.complete("j/a", {"n": 1}, run="one", extra=extra)
    kit.complete("d/x", run="one")
    kit.fail("r", run="one")
    kit.lose("l[1,v]/x", run="one")
    assert kit.claim("p", run="one").granted
    kit.signal("later", {"x": 1}, "one")
    kit.cancel("two")
    kit.pause("three")
    kit.start(code_plan(), "five")
    kit.tell([StepRan("a#1", "a", "d" * 16, MS, MS + 5, raw({"n": 1}))], run="five")
    later = [SleepBegun("s#1", kit.now_ms + 90_000), SignalAwaited("w#1", "go", 0, "x")]
    kit.tell(later, end=Ending(TurnOutcome.WAITING), run="five")
    four = kit.run("four")
    evicted = RunEvicted(four.key, four.fingerprint, four.state, four.not_after_ms)
    kit.tick(lambda m: m.emit_shard(evicted))
    kit.patch(kit.run("one").program.digest, "one")
    kit.patch(plan(task("n"), task("a"), concurrency=key("k")), "three")
    spec = ScheduleSpec(cron="0 * * * *", overlap="queue")
    nightly = ScheduleCreated("default/nightly", spec, four.program.digest, MS + 9_000, MS + 9_000)
    kit.tick(lambda m: m.emit_shard(nightly))
    kit.tick(lambda m: m.emit_shard(NamespaceChanged("payments", 3.0, 1)))
    kit.tick(lambda m: m.emit_shard(SettingsChanged({"z": 1, "a": [2]})))
    kit.tick(lambda m: m.emit_shard(SnapshotRegistered(3, "snap", "hash")))
    return kit


def readable(state: ShardState) -> str:
    """Return what people would ask of a state, in words that no change of the format touches."""
    lines = []
    for name, run in sorted(state.runs.items()):
        flags = [one for one in ("paused", "cancelling", "failing") if getattr(run, one)]
        lines.append(f"run {name} {status.NAMES[run.state]} {' '.join(flags)}".rstrip())
        lines.append(f"  input {run.input.hex()} labels {sorted(run.labels.items())}")
        lines.append(f"  priority {run.priority} events {run.events} claims {run.claims}")
        lines.append(f"  signals {[(one.name, one.payload.hex()) for one in run.signals]}")
        lines.append(f"  key {run.key_name!r} held {run.key_held} jobs {sorted(run.node_keys)}")
        if run.journal is not None:
            lines += [
                f"  entry {entry.number} {entry.key} {entry.kind} {entry.state} "
                f"{bytes(entry.value).hex()}"
                for entry in run.journal.entries.values()
            ]
        for instance, value in enumerate(run.status):
            if value != status.TEMPLATE:
                facts = f"attempt {run.attempt[instance]} token {run.tokens.get(instance)}"
                due, output = run.due.get(instance), run.outputs.get(instance, b"").hex()
                path = run.path(instance) or "."
                lines.append(f"  {path} {status.NAMES[value]} {facts} due {due} {output}".rstrip())
    for name, record in sorted(state.keys.items()):
        lines.append(f"key {name} {record.limit} {sorted(record.holders)} {list(record.waiters)}")
    lines += [f"outbox {name} {one.kind}" for name, one in sorted(state.outbox.items())]
    lines += [f"tombstone {name} {one.state}" for name, one in sorted(state.tombstones.items())]
    lines += [f"schedule {name} {one.spec.cron}" for name, one in sorted(state.schedules.items())]
    lines += [f"namespace {name} {value}" for name, value in sorted(state.namespaces.items())]
    lines += [f"snapshot {snapshot}" for snapshot in state.snapshots]
    lines.append(f"requests {len(state.requests)} plans {len(state.plans)}")
    lines.append(f"token {state.token_last} settings {sorted(state.settings.items())}")
    return "\n".join(lines) + "\n"


def write(folder: Path) -> None:
    """Write the golden files; raises FileExistsError if the folder is there."""
    folder.mkdir(parents=True)
    lines = [
        f"{type(event).__name__} {msgspec.msgpack.encode(event).hex()}"
        for event in (*RUN_EVENTS, *SHARD_EVENTS)
    ]
    (folder / "events.txt").write_text("\n".join(lines) + "\n")
    (folder / "batch.txt").write_text(encode_batch(batch()).hex() + "\n")
    kit = scenario()
    (folder / "log.txt").write_text("".join(f"{entry.hex()}\n" for _, entry in kit.log))
    (folder / "snapshot.txt").write_text(encode_state(kit.folder.state).hex() + "\n")
    (STATES / f"{folder.name}.txt").write_text(readable(kit.folder.state))


if __name__ == "__main__":
    write(GOLDEN / sys.argv[1])
