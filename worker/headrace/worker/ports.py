"""What the executor needs of its surroundings: the broker's side, or the embedded engine.

All calls are made on the executor's event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from headrace.messages import ClaimReply, LogLine, StepResult, Task, TurnReply, TurnReport
from headrace.worker.core import Origin


class ResultSink(Protocol):
    """Takes the outcome of every attempt; must not block or raise."""

    def deliver(self, origin: Origin, result: StepResult) -> None:
        """Take *result*; from now on it is the sink's to keep."""
        ...


class ClaimDesk(Protocol):
    """Asks the owner whether an at-most-once attempt may start."""

    async def claim(self, origin: Origin, task: Task) -> ClaimReply:
        """Return the owner's answer. Raises `Unreachable` when there is none in bounded time."""
        ...


class TurnDesk(Protocol):
    """Brings what a workflow function did to the owner of its run."""

    async def turn(self, origin: Origin, report: TurnReport) -> TurnReply:
        """Return the owner's answer. Raises `HeadraceError`: send the report again then."""
        ...


class LogSink(Protocol):
    """Takes output lines; must not block, may drop what it says that it drops."""

    def write(self, origin: Origin, task: Task, first: int, lines: Sequence[LogLine]) -> None:
        """Publish *lines* of one attempt; *first* is the number of the first one."""
        ...


class BlobStore(Protocol):
    """Keeps payloads that are too large for a message; keyed by run, deleted with it."""

    async def put(self, run: str, data: bytes) -> str:
        """Store *data* for *run* (a run key) and return a reference. Raises `HeadraceError`."""
        ...

    async def get(self, reference: str) -> bytes:
        """Return what `put` stored. Raises `NotFound` or another `HeadraceError`."""
        ...


class ArtifactStore(Protocol):
    """Keeps packed files by run and name."""

    bytes_max: int
    """Largest artifact."""

    async def put(self, run: str, name: str, path: Path, *, overwrite: bool) -> None:
        """Keep the file at *path*. Raises `Conflict` for a name that is taken, `HeadraceError`."""
        ...

    async def get(self, run: str, name: str, path: Path) -> None:
        """Write what is kept to *path*. Raises `NotFound` or another `HeadraceError`."""
        ...


class ValueSource(Protocol):
    """Where secrets or variables come from, at the last moment. From any thread."""

    def read(self) -> Mapping[str, str]:
        """Return all that steps of this worker may see, by name.

        The same mapping as long as nothing has changed. Raises `HandlerError`.
        """
        ...


class NoLogs:
    """A `LogSink` that keeps nothing."""

    def write(self, origin: Origin, task: Task, first: int, lines: Sequence[LogLine]) -> None:
        """Drop the lines."""


_NOTHING: Mapping[str, str] = {}


class NoValues:
    """A `ValueSource` without any."""

    def read(self) -> Mapping[str, str]:
        """Return nothing."""
        return _NOTHING
