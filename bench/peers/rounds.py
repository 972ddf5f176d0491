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
SLOWEST_S = 75.0
"""So long one answer may take; a system that needs more has no figure."""
SETTLE_S = 1.0
IDLE_S = 2.0
WARM_RUNS = 10
W5_S = 45.0
"""W5 is not begun with less time left: it has to wait for what a killed worker held."""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which *share* of *values* lie."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


class Measured:
    """A system that answers until the time of the whole run is over."""

    def __init__(self, system: System, load: Load, until: float) -> None:
        self.system, self.load, self._until = system, load, until

    def ask(self, do: str, **parameters: Any) -> dict[str, Any]:
        """Return the client's answer. Raises `Broken`, also when there is no time left."""
        assert self.system.client is not None
        left_s = self._until - time.monotonic()
        if left_s < 1.0:
            raise Broken("the time of the run is over")
        return self.system.client.ask(do, within_s=min(SLOWEST_S, left_s), **parameters)

    def cpu_us(self, before: float, steps: int) -> float:
        """Return the CPU that all processes have used since *before*, in us a step."""
        return (cpu_seconds(self.system.processes()) - before) / steps * 1e6


def measure_round(
    kind: type[System], folder: Path, workloads: Sequence[str], *, quick: bool, until: float
) -> dict[str, Any]:
    """Start *kind*, measure *workloads*, stop; what failed is in `errors` by workload.

    Nothing is begun after *until* (of the monotonic clock), and no answer awaited.
    """
    system = kind(folder)
    measured = Measured(system, kind.load.quick() if quick else kind.load, until)
    figures: dict[str, Any] = {"errors": {}}
    part = "start"
    begun = time.monotonic()
    try:
        system.start()
        _warm(measured)
        figures["start_s"] = time.monotonic() - begun
        time.sleep(SETTLE_S)
        part = "idle"
        figures["idle"] = _idle(system)
        for part in workloads:
            part_begun = time.monotonic()
            if part == "W5":
                if time.monotonic() + W5_S > until:
                    raise Broken("the time of the run is over")
                figures[part] = measure_loss(system, quick=quick)
            else:
                figures[part] = _WORKLOADS[part](measured)
            figures[part]["took_s"] = round(time.monotonic() - part_begun, 2)
            if part == "W2":
                figures["loaded_pss_mb"] = pss_mb(system.processes())
    except Broken as error:
        # Nothing is known of the system's state now: the rest of this round is not measured.
        figures["errors"][part] = str(error).splitlines()[0].rstrip(":")[:300]
        print(f"{kind.title}, {part}: {error}\n{system.tails()}", file=sys.stderr, flush=True)
    finally:
        system.stop()
    figures["took_s"] = round(time.monotonic() - begun, 2)
    return figures


def _warm(measured: Measured) -> None:
    runs = min(WARM_RUNS, measured.load.w1_runs)
    measured.ask("w1", runs=runs)
    measured.ask("w2", runs=runs)


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


def _w1(measured: Measured) -> dict[str, Any]:
    load = measured.load
    before = cpu_seconds(measured.system.processes())
    took = measured.ask("w1", runs=load.w1_runs)["ms"]
    return {
        "runs": load.w1_runs,
        "p50_ms": statistics.median(took),
        "p99_ms": percentile(took, 0.99),
        "cpu_us_per_step": measured.cpu_us(before, load.w1_runs),
    }


def _w2(measured: Measured) -> dict[str, Any]:
    load = measured.load
    before = cpu_seconds(measured.system.processes())
    steps = load.w2_runs * STEPS
    rates = [steps / measured.ask("w2", runs=load.w2_runs)["seconds"] for _ in range(load.w2_times)]
    return {
        "runs": load.w2_runs,
        "times": load.w2_times,
        "steps_per_s": statistics.median(rates),
        "cpu_us_per_step": measured.cpu_us(before, steps * load.w2_times),
    }


def _w3(measured: Measured) -> dict[str, Any]:
    load = measured.load
    before = cpu_seconds(measured.system.processes())
    took = [
        measured.ask("w3", width=load.w3_width)["seconds"] * 1_000 for _ in range(load.w3_times)
    ]
    return {
        "width": load.w3_width,
        "times": load.w3_times,
        "ms": statistics.median(took),
        "cpu_us_per_step": measured.cpu_us(before, load.w3_width * load.w3_times),
    }


def _w4(measured: Measured) -> dict[str, Any]:
    load = measured.load
    before = cpu_seconds(measured.system.processes())
    seconds = measured.ask("w4", count=load.w4_runs)["seconds"]
    return {
        "runs": load.w4_runs,
        "runs_per_s": load.w4_runs / seconds,
        "cpu_us_per_step": measured.cpu_us(before, load.w4_runs),
    }


_WORKLOADS = {"W1": _w1, "W2": _w2, "W3": _w3, "W4": _w4}
