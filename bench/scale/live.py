"""A shard with many runs that wait: what a step of others costs, and what the many cost.

``python bench/scale/live.py RUNS`` prints one JSON row; in a process of its own, for its memory.
CPU time of this thread only.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.scale.shard import BUILTIN, Shard, cpu_s, in_pieces

from headrace.coordinator.core import Capture, Parking, ParkingPolicy, loading, verify
from headrace.messages import ListRuns, SignalRun, SubmitRun
from headrace.plan import Group, Plan, Sleep, Task, Wait

ROUNDS = 5
CHAINS, STEPS = 200, 10
WOKEN = 1_000
FILL = 500
DAY_MS = 86_400_000


def chain(steps: int) -> Plan:
    nodes = [
        Task(name=f"t{n}", parent=0, uses="noop", needs=(n,) if n else ()) for n in range(steps)
    ]
    return Plan(name="chain", dialect="tasks", nodes=(Group(name="root", size=steps + 1), *nodes))


def _waiting(first: Any) -> Plan:
    nodes = (
        Group(name="root", size=3),
        first,
        Task(name="after", parent=0, uses="noop", needs=(1,)),
    )
    return Plan(name="waits", dialect="tasks", nodes=nodes)


class Many:
    """The shard, and how it was filled: half of the runs wait for a signal, half for a time."""

    def __init__(self, runs: int) -> None:
        self.shard = Shard()
        self.parking = Parking(self.shard.machine.state, ParkingPolicy(free=0, parks=10_000))
        self.numbers = 0
        before = rss_mb()
        began = cpu_s()
        self.signal = self.shard.store(_waiting(Wait(name="go", parent=0, signal="go")))
        day = self.shard.store(_waiting(Sleep(name="day", parent=0, duration_ms=DAY_MS)))
        for first in range(0, runs, FILL):
            count = min(FILL, runs - first)
            self.submit(self.signal, count // 2)
            self.submit(day, count - count // 2)
            self.park()
        self.fill_us = (cpu_s() - began) / max(runs, 1) * 1e6
        self.park(every=True)
        gc.collect()
        self.mb = rss_mb() - before

    def park(self, *, every: bool = False) -> None:
        """Park as an owner does some seconds later; *every*: until all are parked."""
        for _ in range(3 if every else 1):
            self.shard.now_ms += 10_000 if every else 0
            while self.parking.sweep(self.shard.now_ms):
                pass
            self.shard.now_ms += 2_000

    def submit(self, digest: str, count: int) -> list[str]:
        """Submit runs in one tick; return their names."""
        names = [f"{self.numbers + n:010x}-{n:015d}" for n in range(count)]
        self.numbers += count
        until_ms = self.shard.now_ms + 60_000
        self.shard.tick(
            *(
                SubmitRun(run=name, plan=digest, request_id=name, not_after_ms=until_ms)
                for name in names
            )
        )
        return names


def rss_mb() -> float:
    """Return the resident memory of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1_000
    return 0.0


def steps_us(many: Many) -> float:
    """Return the CPU of a step of 200 chains of 10 that run beside, in us: the median round."""
    digest = many.shard.store(chain(STEPS))
    took = []
    for _ in range(ROUNDS):
        began = cpu_s()
        many.submit(digest, CHAINS)
        done = 0
        while many.shard.tasks:
            done += many.shard.work()
        assert done == CHAINS * STEPS, done
        took.append((cpu_s() - began) / done * 1e6)
    return statistics.median(took)


def measure(runs: int) -> dict[str, Any]:
    """Return the figures of a shard with *runs* waiting ones."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    many = Many(runs)
    shard, state = many.shard, many.shard.machine.state
    found: dict[str, Any] = {
        "runs": runs,
        "parked": len(state.runs.parked),
        "fill_us": many.fill_us,
        "mb": many.mb,
        "bytes_a_run": many.mb * 1e6 / max(runs, 1),
    }
    found["step_us"] = steps_us(many)
    began = time.perf_counter()
    gc.collect()
    found["full_collection_ms"] = (time.perf_counter() - began) * 1_000
    answers = []
    for query in (ListRuns(), ListRuns(limit=1_000), ListRuns(labels={"team": "none"})):
        began = cpu_s()
        shard.tick(query)
        answers.append((cpu_s() - began) * 1_000)
    found["list_longest_ms"] = max(answers)
    found["wake_us"] = _wake(many)
    capture = Capture(state)
    found["snapshot"] = in_pieces(_drained(capture.pieces()))[0]
    found["snapshot"]["bytes"] = len(capture.data)
    found["read_back"] = in_pieces(verify(capture.data, BUILTIN, capture.cuts))[0]
    data = capture.data
    del shard, state, many
    found["load"], state = in_pieces(loading(data, BUILTIN))
    taken = Shard(state)
    found["resume"] = in_pieces(taken.machine.resuming())[0]
    found["timers"] = len(taken.machine.timers)
    return found


def _drained(pieces: Any) -> Any:
    yield from pieces


def _wake(many: Many) -> float:
    """Return what a signal for a parked run costs, in us: it comes back, and goes on."""
    state = many.shard.machine.state
    names = [key.partition("/")[2] for key in list(state.runs.parked)[: WOKEN * 2]]
    until_ms = many.shard.now_ms + 60_000
    signals = [
        SignalRun(run=name, name="news", request_id=f"s{name}", not_after_ms=until_ms)
        for name in names
    ]
    began = cpu_s()
    many.shard.tick(*signals)
    return (cpu_s() - began) / max(len(names), 1) * 1e6


def main() -> None:
    print(json.dumps(measure(int(sys.argv[1]))))


if __name__ == "__main__":
    main()
