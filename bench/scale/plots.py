"""Draws the figures of ``bench/scaling.py``; needs matplotlib (extra `bench`)."""

# pyright: reportMissingImports=false, reportUnknownParameterType=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLOR, OTHER = "#0b6e4f", "#8d99ae"
ROLES = ("broker", "coordinators", "workers", "client")


def draw(document: Mapping[str, Any], file: Path) -> None:
    """Draw what *document* has: a step's cost over live runs, over history, over processes."""
    canvas, (runs, history, processes) = plt.subplots(1, 3, figsize=(13, 3.6))
    _line(runs, document.get("live", ()), "runs", "step_us", "waiting runs")
    _line(history, document.get("history", ()), "events", "step_us", "events of the run")
    _bars(processes, document.get("processes", ()))
    canvas.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(file, dpi=110)
    plt.close(canvas)


def _line(axes: Axes, rows: Sequence[Mapping[str, Any]], x: str, y: str, title: str) -> None:
    axes.plot([row[x] for row in rows], [row[y] for row in rows], "o-", color=COLOR)
    axes.set_title(f"CPU of a step over {title}, µs", fontsize=9, loc="left")
    if rows:
        axes.set_xscale("log")
    axes.set_ylim(0, 1.3 * max((row[y] for row in rows), default=1.0))
    axes.spines[["top", "right"]].set_visible(False)


def _bars(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    names = [f"{row['coordinators']} / {row['workers']}" for row in rows]
    below = [0.0] * len(rows)
    for role, shade in zip(ROLES, (OTHER, COLOR, "#e09f3e", "#d8dee9"), strict=True):
        values = [row["cpu_us_per_step"][role] for row in rows]
        axes.bar(names, values, bottom=below, color=shade, label=role)
        below = [low + value for low, value in zip(below, values, strict=True)]
    axes.set_title("CPU of a step, coordinators / workers, µs", fontsize=9, loc="left")
    if rows:
        axes.set_ylim(0, 1.3 * max(below))
        axes.legend(frameon=False, fontsize=8, ncol=len(ROLES), loc="upper center")
    axes.spines[["top", "right"]].set_visible(False)
