"""Labels and buckets that several sets of families share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from headrace.telemetry._family import Label

SHARD: Final = Label("shard", limit=1_024)
NAMESPACE: Final = Label("namespace", limit=100)
WORKFLOW: Final = Label("workflow", limit=200)
LANE: Final = Label("lane", limit=512)
"""The capabilities that its steps need, in order, joined by commas; see `lane_label`."""
WRITE: Final = Label("outcome", ("ok", "failed"))

ANY: Final = "any"
"""Lane of the steps that every worker may run."""
PINNED: Final = "pinned"
"""Lane of all steps that wait for one certain worker: the worker's id is no label."""

FAST: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: appends, requests, queueing."""
SLOW: Final = (0.005, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 86_400.0)
"""Seconds: what users' code takes."""
COUNTS: Final = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
BYTES: Final = (256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576)


def lane_label(capabilities: Iterable[str], *, pinned: bool = False) -> str:
    """Return how a lane is called in series: readable, and without an id."""
    if pinned:
        return PINNED
    return ",".join(sorted(label.lower() for label in capabilities)) or ANY
