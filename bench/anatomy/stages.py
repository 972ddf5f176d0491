"""Which stage of a step a sampled stack belongs to, by the innermost frame that tells."""

from __future__ import annotations

import re
from collections import Counter

Rules = tuple[tuple[str, str], ...]
"""(part of a frame, stage), in the order in which they are tried on one frame."""

_BUS: Rules = (
    ("_write (bus/_client.py", "bus: write"),
    ("(bus/_parser.py", "bus: read"),
    ("(bus/", "bus: publish, request"),
    ("_read_loop (nats/", "bus: read"),
)

COORDINATOR: Rules = (
    *_BUS,
    ("(coordinator/core/evolve", "evolve"),
    ("(coordinator/core/shard_events", "evolve"),
    ("(coordinator/core/state.py", "evolve"),
    ("(events/_batch", "encode the entry"),
    ("(coordinator/core/entries", "encode the entry"),
    ("batch_hash", "encode the entry"),
    ("(coordinator/core/views", "answer"),
    ("(coordinator/core/", "decide"),
    ("(coordinator/runtime/archiver", "archive"),
    ("(coordinator/archive/", "archive"),
    ("(aiosqlite/", "archive"),
    ("(coordinator/runtime/feed", "event feed"),
    ("(coordinator/shardlog/", "append"),
    ("(coordinator/runtime/writer", "append"),
    ("(coordinator/dispatch/", "dispatch"),
    ("(coordinator/runtime/handout", "dispatch"),
    ("(coordinator/runtime/leading", "decode"),
    ("(messages/_codec", "decode"),
    ("(coordinator/runtime/observe", "metrics"),
    ("(telemetry/", "metrics"),
    ("(coordinator/runtime/answers", "answer"),
    ("(coordinator/runtime/inbox", "answer"),
    ("(coordinator/runtime/replies", "answer"),
    ("(coordinator/runtime/", "tick"),
    ("(coordinator/control/", "election, registry"),
    ("run (asyncio/runners", "event loop"),
)
WORKER: Rules = (
    *_BUS,
    ("(worker/core/outbox", "answer"),
    ("(worker/reporter", "answer"),
    ("(worker/broker", "answer"),
    ("(worker/consumer", "take tasks"),
    ("(worker/core/", "take tasks"),
    ("(messages/_codec", "decode"),
    ("(worker/heartbeats", "heartbeat"),
    ("(worker/life", "heartbeat"),
    ("(worker/app", "metrics"),
    ("(telemetry/", "metrics"),
    ("(prometheus_client/", "metrics"),
    ("(worker/", "run"),
    ("run (asyncio/runners", "event loop"),
)
_LINE = re.compile(r":\d+\)")


def shares(raw: str, rules: Rules) -> dict[str, float]:
    """Return each stage's share of the main thread's samples (py-spy's format ``raw``).

    Only samples that hold the interpreter's lock are in there: `record` asks for no others.
    """
    counts: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_LINE.sub(")", frame) for frame in stack.split(";")]
        if frames and frames[0].startswith("Thread."):
            continue  # measured apart, by the thread's own CPU time
        counts[_stage(frames, rules)] += int(count)
    total = sum(counts.values())
    return {stage: count / total for stage, count in counts.most_common()} if total else {}


def _stage(frames: list[str], rules: Rules) -> str:
    for frame in reversed(frames):
        for part, stage in rules:
            if part in frame:
                return stage
    return "other"
