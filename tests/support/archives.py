"""Closed runs to put into archives, and an archiver's patience."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from headrace.coordinator.archive import ArchivedRun, RunSummary, Segment
from headrace.errors import HeadraceError

NS = "default"
WITHIN_S = 30

T = TypeVar("T")


def summary(run: str, **fields: Any) -> RunSummary:
    """Return what a list shows of a closed run."""
    made: dict[str, Any] = {
        "namespace": NS,
        "run": run,
        "workflow": "hello",
        "state": "COMPLETED",
        "created_ms": 1_000,
        "finished_ms": 2_000,
        "plan": "p1",
    }
    return RunSummary(**(made | fields))


def closed(run: str, *segments: Segment, data: bytes = b"", **fields: Any) -> ArchivedRun:
    """Return a closed run with its history: one segment, of *data* or the id, unless given."""
    return ArchivedRun(summary(run, **fields), list(segments) or [Segment(1, data or run.encode())])


async def persistently(action: Callable[[], Awaitable[T]]) -> T:
    """Do what the archiver does: try again until the archive takes it."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                return await action()
            except HeadraceError:
                await asyncio.sleep(0.05)
