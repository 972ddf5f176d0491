"""One round of one system: W1 to W5 on freshly started processes with empty data folders."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.peers.loss import measure_loss
from bench.peers.processes import Broken, cpu_seconds, pss_mb
from bench.peers.systems import Load, System

STEPS = 10
SLOWEST_S = 150.0
SETTLE_S = 1.0
IDLE_S = 2.0
WARM_RUNS = 10


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which *share* of *values* lie."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def measure_round(
    kind: type[System], folder: Path, workloads: Sequence[str], *, quick: bool
) -> dict[str, Any]:
    """Start *kind*, measure *workloads*, stop; what failed is in `errors` by workload."""
    system = kind(folder)
    load = kind.load.quick() if quick else kind.load
    figures: dict[str, Any] = {"errors": {}}
    part = "start"
    begun = time.monotonic()
    try:
        system.start()
        _warm(system)
        figures["start_s"] = time.monotonic() - begun
        time.sleep(SETTLE_S)
        part = "idle"
        figures["idle"] = _idle(system)
        for part in workloads:
            measured = time.monotonic()
            if part == "W5":
                figures[part] = measure_loss(system, quick=quick)
            else:
                figures[part] = _WORKLOADS[part](system, load)
            figures[part]["took_s"] = round(time.monotonic() - measured, 2)
            if part == "W2":
                figures["loaded_pss_mb"] = pss_mb(system.processes())
    except Broken as error:
        # Nothing is known of the system's state now: the rest of this round is not measured.
        figures["errors"][part] = str(error)[:1500]
        print(f"{kind.title}, {part}: {error}\n{system.tails()}", file=sys.stderr, flush=True)
    finally:
        system.stop()
    figures["took_s"] = round(time.monotonic() - begun, 2)
    return figures


def _ask(system: System, do: str, **parameters: Any) -> dict[str, Any]:
    assert system.client is not None
    return system.client.ask(do, within_s=SLOWEST_S, **parameters)


def _warm(system: System) -> None:
    _ask(system, "w1", runs=WARM_RUNS)
    _ask(system, "w2", runs=min(WARM_RUNS, system.load.w2_runs))


def _idle(system: System) -> dict[str, Any]:
    """Return memory and share of a core of all but the client, with nothing to do."""
    parts = [process for process in system.processes() if process is not system.client]
    # A system that runs in its client's process is that process.
    parts = parts if system.worker is not None else system.processes()
    begun, before = time.monotonic(), cpu_seconds(parts)
    time.sleep(IDLE_S)
    used = cpu_seconds(parts) - before
    return {
        "pss_mb": round(pss_mb(parts), 1),
        "cpu_share": round(used / (time.monotonic() - begun), 4),
        "processes": {process.name: round(pss_mb([process]), 1) for process in parts},
    }


def _cpu_us(system: System, before: float, steps: int) -> float:
    return (cpu_seconds(system.processes()) - before) / steps * 1e6


def _w1(system: System, load: Load) -> dict[str, Any]:
    before = cpu_seconds(system.processes())
    took = _ask(system, "w1", runs=load.w1_runs)["ms"]
    return {
        "runs": load.w1_runs,
        "p50_ms": statistics.median(took),
        "p99_ms": percentile(took, 0.99),
        "cpu_us_per_step": _cpu_us(system, before, load.w1_runs),
    }


def _w2(system: System, load: Load) -> dict[str, Any]:
    before = cpu_seconds(system.processes())
    steps = load.w2_runs * STEPS
    rates = [steps / _ask(system, "w2", runs=load.w2_runs)["seconds"] for _ in range(load.w2_times)]
    return {
        "runs": load.w2_runs,
        "times": load.w2_times,
        "steps_per_s": statistics.median(rates),
        "cpu_us_per_step": _cpu_us(system, before, steps * load.w2_times),
    }


def _w3(system: System, load: Load) -> dict[str, Any]:
    before = cpu_seconds(system.processes())
    took = [
        _ask(system, "w3", width=load.w3_width)["seconds"] * 1_000 for _ in range(load.w3_times)
    ]
    return {
        "width": load.w3_width,
        "times": load.w3_times,
        "ms": statistics.median(took),
        "cpu_us_per_step": _cpu_us(system, before, load.w3_width * load.w3_times),
    }


def _w4(system: System, load: Load) -> dict[str, Any]:
    before = cpu_seconds(system.processes())
    seconds = _ask(system, "w4", count=load.w4_runs)["seconds"]
    return {
        "runs": load.w4_runs,
        "runs_per_s": load.w4_runs / seconds,
        "cpu_us_per_step": _cpu_us(system, before, load.w4_runs),
    }


_WORKLOADS = {"W1": _w1, "W2": _w2, "W3": _w3, "W4": _w4}
