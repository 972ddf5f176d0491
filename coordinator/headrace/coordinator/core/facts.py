"""What the state does not know: who is alive and who holds what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class WorkerFacts(NamedTuple):
    """One live worker, as the dispatcher knows it."""

    worker: str
    namespace: str
    capabilities: frozenset[str]
    slots: int
    free: int
    draining: bool


class Holder(NamedTuple):
    """Who runs a step, by its own word."""

    worker: str
    details: Any = None
    """What the step's code said last in a heartbeat."""


class Facts(NamedTuple):
    """What an explanation needs beside the state."""

    workers: tuple[WorkerFacts, ...] = ()
    holders: Mapping[tuple[str, int], Holder] = {}
    """(run key, step) -> the worker that says that it runs it."""
    missing_since_ms: Mapping[str, int] = {}
    """Capability label -> since when no worker of the namespace offers it."""
