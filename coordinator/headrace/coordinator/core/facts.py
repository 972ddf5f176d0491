"""What the state does not know: who is alive and who holds what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class WorkerFacts(NamedTuple):
    """One live worker, as the dispatcher knows it."""

    worker: str
    namespace: str
    capabilities: frozenset[str]
    slots: int
    free: int
    draining: bool


class Facts(NamedTuple):
    """What an explanation needs beside the state."""

    workers: tuple[WorkerFacts, ...] = ()
    holders: Mapping[tuple[str, int], str] = {}
    missing_since_ms: Mapping[str, int] = {}
    """Capability label -> since when no worker of the namespace offers it."""
