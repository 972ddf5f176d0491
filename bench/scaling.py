"""What a step costs when there is more of everything: runs, history, processes.

``python bench/scaling.py [--quick] [--only live history heartbeats processes]``

At most 10 minutes on two idle cores; ``--quick`` some 2. Writes bench/results/scaling.json and from
it the part "Scaling" of docs/benchmarks.md (``--report``: only that; ``--no-report``: not that).
A million runs need 3 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "load"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import uvloop
from bench.facts import machine
from bench.page import BENCHMARKS, splice
from scale import heartbeats, history, processes, report

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "scaling.json"
RUNS = (1_000, 10_000, 100_000, 1_000_000)
LENGTHS = (10, 100, 1_000, 10_000, 100_000)
SHAPES = ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4), (2, 2))
PARTS = ("live", "history", "heartbeats", "processes")
FLEETS = (100, 1_000, 10_000)
BEATS_S = 10.0
ROW_TIMEOUT_S = 900.0


def live(runs: int) -> dict[str, Any]:
    """Measure a shard with *runs* waiting runs, in a process of its own."""
    command = [sys.executable, str(HERE / "scale" / "live.py"), str(runs)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=ROW_TIMEOUT_S)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def measure(parts: list[str], *, quick: bool) -> dict[str, Any]:
    """Return all figures; tells on stderr how far it is."""
    found: dict[str, Any] = {}
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {what}", file=sys.stderr)

    def missed(what: str, error: Exception) -> None:
        tell(f"{what}: {error}")
        found.setdefault("missed", []).append(f"{what}: {type(error).__name__}")

    if "live" in parts:
        found["live"] = []
        for runs in RUNS[:-1] if quick else RUNS:
            tell(f"{runs:,} waiting runs")
            try:
                found["live"].append(live(runs))
            except subprocess.SubprocessError as error:
                missed(f"{runs:,} waiting runs", error)
    if "history" in parts:
        tell("a long history")
        try:
            found["history"] = history.measure(list(LENGTHS[:-1] if quick else LENGTHS))
        except AssertionError as error:
            missed("a long history", error)
    if "heartbeats" in parts:
        found["heartbeats"] = []
        for workers in FLEETS[:-1] if quick else FLEETS:
            tell(f"heartbeats of {workers:,} workers")
            try:
                row = uvloop.run(heartbeats.measure(workers, seconds=BEATS_S))
                found["heartbeats"].append(row)
            except (OSError, RuntimeError, TimeoutError) as error:
                missed(f"{workers:,} workers", error)
    if "processes" in parts:
        found["processes"] = []
        for coordinators, workers in SHAPES[:2] if quick else SHAPES:
            tell(f"{coordinators} coordinators, {workers} workers")
            row = processes.measure(coordinators, workers, rounds=10 if quick else 30)
            try:
                found["processes"].append(uvloop.run(row))
            except (OSError, RuntimeError, TimeoutError) as error:
                missed(f"{coordinators} coordinators, {workers} workers", error)
    found["seconds"] = round(time.monotonic() - began)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--report", action="store_true", help="write the page again, measure nothing"
    )
    parser.add_argument("--no-report", action="store_true", help="leave the page alone")
    options = parser.parse_args()
    if not options.report:
        document = {"machine": machine(), "quick": options.quick}
        document.update(measure(options.only, quick=options.quick))
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    document = json.loads(RESULTS.read_text())
    text = report.render(document)
    print(text)
    if not options.no_report:
        splice(BENCHMARKS, "scaling", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
