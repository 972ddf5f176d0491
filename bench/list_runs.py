"""How fast lists of open runs are, and what the index behind them costs.

``python bench/list_runs.py [--runs 1000000] [--json FILE]``

Fills one shard with runs that wait for a signal (of several workflows, with labels, some of them
rare), then reads lists of 50 as a client does, answer by answer until the list is full, and times
each answer: it holds the owner's loop up. Compare ``--runs 10000`` with ``--runs 1000000``: an
answer should take the same; only how many a rare filter needs grows. In one process, without a
broker; a million runs take some minutes to make, and a few GB of memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.facts import processor
from msgspec.structs import replace

from headrace.coordinator.core import Machine, ShardState
from headrace.coordinator.core.listing import Listing
from headrace.messages import ListRuns, PauseRun, RunPage, StorePlan, SubmitRun
from headrace.plan import Group, Plan, Wait, encode_plan

START_MS = 1_700_000_000_000
NAMESPACE = "default"
WORKFLOWS = 5
TICK_RUNS = 500
ROUNDS = 20
RARE = 10_000
"""One of so many is paused, or has the label `incident`."""


class Shard:
    """A machine that is asked, and whose answers are timed."""

    def __init__(self) -> None:
        self.machine = Machine(ShardState(0), chance=random.random, home=lambda _key: 0)
        self.now_ms = START_MS

    def tick(self, requests: list[Any]) -> list[Any]:
        machine = self.machine
        self.now_ms += 10
        machine.begin(self.now_ms)
        answers = [machine.request(NAMESPACE, request) for request in requests]
        machine.settle()
        if machine.dirty:
            machine.finish(batch_id="b", epoch=1)
            machine.effects({})
        return answers

    def fill(self, runs: int) -> float:
        """Make the runs; return the seconds that it took."""
        nodes = (
            Group(name="w", size=2, kind="pipeline"),
            Wait(name="go", parent=0, signal="go"),
        )
        plans = [Plan(name=f"workflow-{n}", nodes=nodes) for n in range(WORKFLOWS)]
        digests = self.tick([StorePlan(plan=encode_plan(plan)) for plan in plans])
        chance = random.Random(1)
        began = time.perf_counter()
        for first in range(0, runs, TICK_RUNS):
            requests: list[Any] = []
            for number in range(first, min(first + TICK_RUNS, runs)):
                labels = {"env": chance.choice(("prod", "dev")), "team": f"t{number % 50}"}
                if number % RARE == RARE // 2:
                    labels["incident"] = "yes"
                name = f"{number:010x}{chance.getrandbits(64):016x}"
                more: dict[str, Any] = {"request_id": name, "not_after_ms": self.now_ms + 60_000}
                digest = digests[chance.randrange(WORKFLOWS)]
                requests.append(SubmitRun(run=name, plan=digest, labels=labels, **more))
                if number % RARE == RARE // 3:
                    more["request_id"] = f"p{name}"
                    requests.append(PauseRun(run=name, **more))
            self.tick(requests)
        return time.perf_counter() - began

    def read(self, query: ListRuns) -> dict[str, float]:
        """Read a list as a client does."""
        wanted, found, cursor = query.limit, 0, query.cursor
        times_ms: list[float] = []
        while True:
            request = replace(query, cursor=cursor, limit=wanted - found)
            began = time.perf_counter()
            (page,) = self.tick([request])
            times_ms.append((time.perf_counter() - began) * 1_000)
            assert isinstance(page, RunPage), page
            found, cursor = found + len(page.runs), page.cursor
            if not cursor or found >= wanted:
                break
        return {
            "runs": found,
            "answers": len(times_ms),
            "longest_ms": max(times_ms),
            "all_ms": sum(times_ms),
        }


def queries(runs: int, now_ms: int) -> dict[str, ListRuns]:
    half = f"{START_MS + (now_ms - START_MS) // 2}:"
    return {
        "newest": ListRuns(),
        "from the middle": ListRuns(cursor=half),
        "page of 1000": ListRuns(limit=1_000),
        "running": ListRuns(states=["RUNNING"]),
        "completed (none)": ListRuns(states=["COMPLETED"]),
        "paused (0.01 %)": ListRuns(states=["PAUSED"]),
        "workflow (20 %)": ListRuns(workflow="workflow-3"),
        "workflow, none": ListRuns(workflow="workflow-99"),
        "label (2 %)": ListRuns(labels={"team": "t7"}),
        "label (0.01 %)": ListRuns(labels={"incident": "yes"}),
        "since, the newest 1 %": ListRuns(since_ms=now_ms - (now_ms - START_MS) // 100),
    }


def index_costs(shard: Shard) -> dict[str, float]:
    """Return what a takeover pays, and what a run does."""
    runs = shard.machine.state.runs
    began = time.perf_counter()
    index = Listing(runs)
    index.order_fresh()
    ordered = time.perf_counter()
    for _ in range(len(runs) // TICK_RUNS):
        index.evicted(TICK_RUNS)
    swept = time.perf_counter()
    return {
        "rebuilt_ms": (ordered - began) * 1_000,
        "rebuilt_us_a_run": (ordered - began) / len(runs) * 1e6,
        "swept_us_a_run": (swept - ordered) / len(runs) * 1e6,
        "entries_mb": index.size * (sys.getsizeof((0, "")) + 8) / 1e6,
    }


def measure(runs: int) -> dict[str, Any]:
    gc.disable()
    shard = Shard()
    made_s = shard.fill(runs)
    # As a coordinator does.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()
    lists: dict[str, dict[str, float]] = {}
    for name, query in queries(runs, shard.now_ms).items():
        rounds = [shard.read(query)]
        rounds += [shard.read(query) for _ in range(ROUNDS if rounds[0]["answers"] < 10 else 1)]
        rounds.sort(key=lambda row: row["all_ms"])
        median = rounds[len(rounds) // 2]
        lists[name] = {**median, "longest_ms": max(row["longest_ms"] for row in rounds)}
    return {
        "runs": runs,
        "made_us_a_run": made_s / runs * 1e6,
        "index": index_costs(shard),
        "lists": lists,
        "machine": {
            "cpu": processor(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
        },
    }


def show(result: dict[str, Any]) -> None:
    machine, index = result["machine"], result["index"]
    print(f"{result['runs']:,} open runs in one shard")
    print(f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}")
    print(f"made:                 {result['made_us_a_run']:.1f} us a run, all that a submit costs")
    print(f"index after takeover: {index['rebuilt_ms']:.0f} ms, {index['entries_mb']:.0f} MB")
    print(f"index of a run:       {index['rebuilt_us_a_run']:.2f} us to put it in order,")
    print(f"                      {index['swept_us_a_run']:.2f} us when it has gone\n")
    print(f"{'list of 50':<24}{'runs':>6}{'answers':>9}{'longest ms':>12}{'all ms':>10}")
    for name, row in result["lists"].items():
        print(
            f"{name:<24}{row['runs']:>6.0f}{row['answers']:>9.0f}"
            f"{row['longest_ms']:>12.2f}{row['all_ms']:>10.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = measure(options.runs)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
