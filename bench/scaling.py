"""What a step costs when there is more of everything: runs, history, processes.

``python bench/scaling.py [--quick] [--only live history heartbeats processes]``

At most 12 minutes on two idle cores; ``--quick`` some 2. Writes bench/results/scaling.json and from
it the part "Scaling" of docs/benchmarks.md (``--report``: only that; ``--no-report``: not that).
A million runs need 3 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import uvloop
from bench.facts import Others, machine
from bench.page import BENCHMARKS, draw, splice
from bench.scale import heartbeats, history, processes, report

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "scaling.json"
PICTURE = BENCHMARKS.parent / "benchmarks" / "scaling.png"
IMAGE = "![scaling](benchmarks/scaling.png)"
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


class Figures:
    """What was measured; a part that fails is named, and the others go on."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.found: dict[str, Any] = {}
        self._began = time.monotonic()

    def measure(self, parts: list[str]) -> dict[str, Any]:
        """Return all figures; tells on stderr how far it is."""
        if "live" in parts:
            for runs in RUNS[:-1] if self.quick else RUNS:
                self._row("live", f"{runs:,} waiting runs", partial(live, runs))
        if "history" in parts:
            lengths: list[int] = list(LENGTHS[:-1] if self.quick else LENGTHS)
            self._row("history", "a long history", partial(history.measure, lengths))
            self.found["history"] = [row for rows in self.found["history"] for row in rows]
        if "heartbeats" in parts:
            for workers in FLEETS[:-1] if self.quick else FLEETS:
                row = partial(heartbeats.measure, workers, seconds=BEATS_S)
                what = f"heartbeats of {workers:,} workers"
                self._row("heartbeats", what, partial(_run, row))
        if "processes" in parts:
            for shape in SHAPES[:2] if self.quick else SHAPES:
                row = partial(processes.measure, *shape, rounds=10 if self.quick else 30)
                what = f"{shape[0]} coordinators, {shape[1]} workers"
                self._row("processes", what, partial(_run, row))
        self.found["seconds"] = round(time.monotonic() - self._began)
        return self.found

    def _row(self, part: str, what: str, action: Callable[[], Any]) -> None:
        print(f"{time.monotonic() - self._began:5.0f} s  {what}", file=sys.stderr, flush=True)
        rows = self.found.setdefault(part, [])
        try:
            rows.append(action())
        except Exception as error:
            traceback.print_exc()
            self.found.setdefault("missed", []).append(f"{what}: {type(error).__name__}")


def kept(parts: list[str]) -> dict[str, Any]:
    """Return what earlier runs have found of the other *parts*, and on which machine, and when."""
    if not RESULTS.exists():
        return {}
    old = json.loads(RESULTS.read_text())
    found: dict[str, Any] = {part: old[part] for part in PARTS if part in old and part not in parts}
    whole = {"machine": old["machine"], "quick": old["quick"]}
    found["earlier"] = {part: old.get("earlier", {}).get(part, whole) for part in found}
    return found


def _run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return uvloop.run(work())


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
        others = Others()
        document = {"machine": machine(), "quick": options.quick}
        document |= kept(options.only)
        document |= Figures(quick=options.quick).measure(options.only)
        document["machine"]["others_cores"] = others.cores()
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    document = json.loads(RESULTS.read_text())
    text = report.render(document)
    print(text)
    if not options.no_report:
        draw("bench.scale.plots", document, PICTURE)
        splice(BENCHMARKS, "scaling", f"{text}\n\n{IMAGE}" if PICTURE.exists() else text)
    return 1 if document.get("missed") else 0


if __name__ == "__main__":
    sys.exit(main())
