"""Draws where each microsecond of a step goes; needs matplotlib (extra `bench`)."""

# pyright: reportMissingImports=false, reportUnknownParameterType=false
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from bench.anatomy.page import stage_us
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLORS = {"coordinator": "#0b6e4f", "worker": "#e09f3e", "broker": "#8d99ae", "client": "#d8dee9"}
ROLES = {"coordinator-0": "coordinator", "worker-0": "worker", "nats-0": "broker"}
TITLES = {"W2": "W2: chains in lockstep", "W4": "W4: one-step runs"}


def draw(document: Mapping[str, Any], file: Path) -> None:
    """Draw a bar for each stage of coordinator and worker, and one for each other process."""
    results = document["results"]
    bars = [parts(results[name]) for name in TITLES]
    canvas, grid = plt.subplots(1, 2, figsize=(13, 0.3 * max(map(len, bars)) + 1.2))
    for axes, (name, title), found in zip(grid, TITLES.items(), bars, strict=True):
        total_us = sum(results[name]["cpu_us_per_step"].values())
        _bars(axes, found, f"{title}, {total_us:.0f} µs of CPU a step")
    canvas.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(file, dpi=110)
    plt.close(canvas)


def parts(workload: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Return (role, part of it, µs of a step), those of one process together, the most first."""
    found: list[tuple[str, str, float]] = []
    for name, total_us in workload["cpu_us_per_step"].items():
        role = ROLES.get(str(name), str(name))
        if name not in workload["shares"]:
            found.append((role, "all", total_us))
            continue
        found += [(role, stage, us) for stage, us in stage_us(dict(workload), name).items()]
        threads_us = workload["other_threads_us_per_step"][name]
        found.append((role, "other threads", threads_us))
    order = list(COLORS)
    return sorted(found, key=lambda part: (order.index(part[0]), -part[2]))


def _bars(axes: Axes, found: list[tuple[str, str, float]], title: str) -> None:
    names = [f"{role}: {part}" for role, part, _ in found]
    axes.barh(names, [us for _, _, us in found], color=[COLORS[role] for role, _, _ in found])
    axes.invert_yaxis()
    for place, (_, _, us) in enumerate(found):
        axes.text(us, place, f" {us:.1f}", va="center", fontsize=7)
    axes.set_title(title, fontsize=9, loc="left")
    axes.tick_params(axis="y", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
