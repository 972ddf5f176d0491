"""How long a snapshot of a large shard holds its owner's loop up.

``python bench/snapshot_pause.py [--runs 100000] [--json FILE]``

Fills a shard with live runs, then takes a snapshot (captured, encoded, stored in memory, read back,
compared) while a ticker changes some runs every few milliseconds, and measures how late the ticker
gets: in wall time, so run nothing else meanwhile. Then the longest piece in CPU time, and for
comparison the same in one go, as `encode_hashed` and `decode_state` do it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace.coordinator.core import (
    Capture,
    Machine,
    ShardState,
    decode_state,
    encode_hashed,
    state_hash,
    verify,
)
from headrace.coordinator.runtime.snapshots import Snapshots
from headrace.coordinator.shardlog import MemorySnapshotStore
from headrace.messages import SignalRun, StorePlan, SubmitRun
from headrace.plan import Group, Plan, Task, Wait, encode_plan
from headrace.telemetry import SystemClock

NOW_MS = 1_700_000_000_000
BUILTIN = frozenset({"noop"})
TICK_S = 0.005
_END = object()
TOUCHED = 50
"""Runs that a tick changes."""


def filled(runs: int) -> tuple[Machine, list[str]]:
    """Return a machine with *runs* runs that wait for a signal, behind a step or two."""
    machine = Machine(ShardState(0, BUILTIN), chance=random.random, home=lambda _key: 0)
    nodes = (
        Group(name="w", size=4, kind="pipeline"),
        Wait(name="go", parent=0, signal="go"),
        Task(name="a", parent=0, uses="noop", needs=(1,)),
        Task(name="b", parent=0, uses="noop", needs=(2,)),
    )
    data = encode_plan(Plan(name="waiting", nodes=nodes))
    names = [f"{number:026d}" for number in range(runs)]
    random.Random(1).shuffle(names)
    tick(machine, [StorePlan(plan=data)])
    digest = next(iter(machine.state.plans))
    for begin in range(0, runs, 500):
        tick(
            machine,
            [
                SubmitRun(
                    run=name,
                    request_id=f"s{name}",
                    not_after_ms=NOW_MS + 1_000,
                    plan=digest,
                    labels={"team": f"t{begin % 50}"},
                )
                for name in names[begin : begin + 500]
            ],
        )
    return machine, names


def tick(machine: Machine, requests: list[Any]) -> None:
    machine.begin(NOW_MS)
    for request in requests:
        machine.request("default", request)
    machine.settle()
    machine.finish(batch_id="b", epoch=1)
    machine.effects({})


def in_one_go(machine: Machine) -> dict[str, float]:
    began = time.thread_time()
    data, digest = encode_hashed(machine.state)
    encoded = time.thread_time()
    assert state_hash(decode_state(data, BUILTIN)) == digest
    read = time.thread_time()
    return {
        "encode_ms": (encoded - began) * 1_000,
        "read_back_ms": (read - encoded) * 1_000,
        "bytes": len(data),
    }


def longest(machine: Machine) -> dict[str, float]:
    """Return the longest uninterrupted work, in CPU time: other processes do not count."""
    began = time.thread_time()
    capture = Capture(machine.state)
    captured_ms = (time.thread_time() - began) * 1_000
    encoding = _times(capture.pieces())
    began = time.thread_time()
    data = capture.data
    joined_ms = (time.thread_time() - began) * 1_000
    reading = _times(verify(data, BUILTIN, capture.cuts))
    return {
        "capture_ms": captured_ms,
        "encode_piece_ms": max(encoding),
        "encode_all_ms": sum(encoding),
        "whole_bytes_ms": joined_ms,
        "read_piece_ms": max(reading),
        "read_all_ms": sum(reading),
        "pieces": len(encoding) + len(reading),
    }


def _times(pieces: Iterator[None]) -> list[float]:
    found = []
    while True:
        began = time.thread_time()
        more = next(pieces, _END) is not _END
        found.append((time.thread_time() - began) * 1_000)
        if not more:
            return found


async def in_pieces(machine: Machine, names: list[str]) -> dict[str, float]:
    snapshots = Snapshots(MemorySnapshotStore(), SystemClock())
    snapshots.begin(machine.state)
    late: list[float] = []
    took: list[float] = []
    chance = random.Random(2)
    over = asyncio.Event()
    copies: list[Any] = []
    count = 0

    async def ticking() -> None:
        nonlocal count
        while not over.is_set():
            wanted = time.perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            began = time.perf_counter()
            late.append(began - wanted)
            for copy in copies:
                copy.copy(machine)
            copies.clear()
            signals = []
            for name in chance.sample(names, TOUCHED):
                count += 1
                signals.append(
                    SignalRun(
                        run=name, name="other", request_id=f"g{count}", not_after_ms=NOW_MS + 1_000
                    )
                )
            tick(machine, signals)
            took.append(time.perf_counter() - began)

    ticker = asyncio.create_task(ticking())
    await asyncio.sleep(0.5)
    quiet = max(late[5:]), max(took[5:])
    late.clear()
    took.clear()
    began = time.perf_counter()
    copy = snapshots.copy_soon()
    copies.append(copy)
    await copy.store(machine)
    total = time.perf_counter() - began
    over.set()
    await ticker
    late.sort()
    return {
        "late_max_ms": late[-1] * 1_000,
        "late_p99_ms": late[int(len(late) * 0.99)] * 1_000,
        "late_p50_ms": late[len(late) // 2] * 1_000,
        "tick_max_ms": max(took) * 1_000,
        "quiet_late_max_ms": quiet[0] * 1_000,
        "quiet_tick_max_ms": quiet[1] * 1_000,
        "snapshot_s": total,
        "ticks": len(late),
        "bytes": copy.size,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine, names = filled(options.runs)
    # As a coordinator does.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    found = {
        "runs": options.runs,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "in_pieces": asyncio.run(in_pieces(machine, names)),
        "longest": longest(machine),
        "in_one_go": in_one_go(machine),
    }
    for part in ("in_one_go", "longest", "in_pieces"):
        figures = found[part]
        assert isinstance(figures, dict)
        print(part.replace("_", " "))
        for name, value in figures.items():
            print(f"  {name:18} {value:14,.1f}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
