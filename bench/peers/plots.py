"""Draws the figures of a run as pictures; the only module that needs matplotlib (extra `bench`)."""

# pyright: reportMissingImports=false, reportUnknownParameterType=false
from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from bench.peers.report import pictures
from bench.peers.targets import OURS, Figures
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

OWN, OTHER = "#0b6e4f", "#8d99ae"
PANELS = (
    ("W1: one step, p50", "ms, less is better", "W1", "p50_ms"),
    ("W2: 200 chains of 10", "steps/s, more is better", "W2", "steps_per_s"),
    ("W3: fan-out of 1,000", "ms, less is better", "W3", "ms"),
    ("W4: one-step runs", "runs/s, more is better", "W4", "runs_per_s"),
    ("W2: CPU a step", "µs, less is better", "W2", "cpu_us_per_step"),
    ("Idle memory", "MB (PSS), less is better", "idle", "pss_mb"),
)


def draw(document: Mapping[str, Any], folder: Path) -> None:
    """Write what `report.pictures` names into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = pictures(document)
    _systems(Figures(document), folder / "systems.png")
    if "open-loop" in wanted:
        _open_loop(document["ours"]["open_loop"], folder / "open-loop.png")


def _systems(figures: Figures, file: Path) -> None:
    """Bars of all systems on logarithmic scales; the thin line is least to most."""
    canvas, grid = plt.subplots(2, 3, figsize=(12, 6.2))
    for axes, (title, unit, workload, figure) in zip(grid.flat, PANELS, strict=True):
        found = [
            (name, values)
            for name in figures.document["systems"]
            if (values := figures.values(name, workload, figure))
        ]
        _bars(axes, [(figures.title(n), values, n == OURS) for n, values in found])
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel(f"{unit}; logarithmic", fontsize=8)
    canvas.tight_layout()
    canvas.savefig(file, dpi=110)
    plt.close(canvas)


def _bars(axes: Axes, rows: Sequence[tuple[str, Sequence[float], bool]]) -> None:
    middles = [statistics.median(values) for _, values, _ in rows]
    axes.barh(
        [title for title, _, _ in rows], middles, color=[OWN if own else OTHER for *_, own in rows]
    )
    for place, (middle, (_, values, _)) in enumerate(zip(middles, rows, strict=True)):
        axes.plot([min(values), max(values)], [place, place], color="black", linewidth=1)
        shown = f"{middle:,.0f}" if middle >= 20 else f"{middle:,.1f}"
        axes.annotate(f" {shown}", (max(middle, *values), place), va="center", fontsize=8)
    axes.set_xscale("log")
    if middles:
        axes.set_xlim(min(middles) / 4, max(middles) * 6)
    axes.invert_yaxis()
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _open_loop(loads: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Latency of a single step, and cores used, over the offered load."""
    canvas, axes = plt.subplots(figsize=(7, 3.4))
    loads = [one for one in loads if one["probes"]]
    offered = [one["offered"] for one in loads]
    axes.plot(offered, [one["probe_p50_ms"] for one in loads], "o-", color=OWN, label="p50")
    axes.plot(offered, [one["probe_p99_ms"] for one in loads], "o--", color=OWN, label="p99")
    axes.set_xlabel("offered, steps/s", fontsize=9)
    axes.set_ylabel("one step beside it, ms", fontsize=9)
    axes.set_yscale("log")
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    cores = axes.twinx()
    cores.bar(offered, [one["cores"] for one in loads], width=2_000, color=OTHER, alpha=0.4)
    cores.set_ylabel("cores used (bars)", fontsize=9)
    cores.set_ylim(0, 2)
    axes.spines[["top"]].set_visible(False)
    canvas.tight_layout()
    canvas.savefig(file, dpi=110)
    plt.close(canvas)
