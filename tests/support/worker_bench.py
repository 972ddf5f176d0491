"""An executor without a broker, for tests: results, lines and claims are kept in lists."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.errors import NotFound
from headrace.messages import ClaimReply, LogLine, StepResult, Task
from headrace.telemetry import Clock
from headrace.worker.artifacts import FileArtifacts
from headrace.worker.builtin import builtin_registry
from headrace.worker.core import Assignments, Origin
from headrace.worker.executor import Executor
from headrace.worker.payloads import Payloads
from headrace.worker.workspaces import WorkspaceLimits, Workspaces

ORIGIN = Origin(0, "default", 1)


class Fixed:
    """A source of values that stay."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def read(self) -> Mapping[str, str]:
        return self._values


class Bench:
    """Everything that an executor needs, and what came out of it."""

    def __init__(
        self,
        folder: Path,
        *,
        slots: int = 4,
        queue_max: int = 1_000,
        handlers: Sequence[object] = (),
        secrets: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
        inline_bytes: int = 32 * 1024,
        bytes_max: int = 1024 * 1024,
        with_blobs: bool = True,
        clock: Clock | None = None,
        at_once: bool = False,
    ) -> None:
        self.folder = folder
        self.results: list[StepResult] = []
        self.lines: list[LogLine] = []
        self.numbers: list[int] = []
        self.claims: list[Task] = []
        self.grant = ClaimReply(True)
        self.blobs: dict[str, bytes] = {}
        self.secrets = dict(secrets or {})
        self._changed = asyncio.Event()
        self.registry = registry = builtin_registry()
        for thing in handlers:
            registry.add(thing)
        self.executor = Executor(
            registry=registry,
            results=self,
            assignments=Assignments(slots=slots, queue_max=queue_max),
            workspaces=Workspaces(folder, "life", WorkspaceLimits()),
            payloads=Payloads(
                self if with_blobs else None, inline_bytes=inline_bytes, bytes_max=bytes_max
            ),
            claims=self,
            logs=self,
            secrets=self,
            variables=Fixed(variables or {}),
            artifacts=FileArtifacts(folder / "artifacts"),
            clock=clock,
            at_once=at_once,
        )

    async def run(self, *tasks: Task) -> list[StepResult]:
        """Submit *tasks* and return the results when nothing is left to do."""
        before = len(self.results)
        self.executor.submit(ORIGIN, tasks)
        async with asyncio.timeout(30):
            await self.executor.wait_idle()
        return self.results[before:]

    async def run_one(self, task: Task) -> StepResult:
        """Return the one result of *task*."""
        (result,) = await self.run(task)
        return result

    async def until(self, condition: Any) -> None:
        """Return when *condition* holds, looked at after each result and line."""
        async with asyncio.timeout(30):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def text(self, stream: str = "") -> list[str]:
        """Return the lines (of one stream)."""
        return [line.text for line in self.lines if stream in ("", line.stream)]

    # -- the ports -----------------------------------------------------------------------------

    def deliver(self, origin: Origin, result: StepResult) -> None:
        self.results.append(result)
        self._changed.set()

    def write(self, origin: Origin, task: Task, first: int, lines: Sequence[LogLine]) -> None:
        self.lines += lines
        self.numbers += range(first, first + len(lines))
        self._changed.set()

    async def claim(self, origin: Origin, task: Task) -> ClaimReply:
        self.claims.append(task)
        return self.grant

    async def put(self, run: str, data: bytes) -> str:
        reference = f"{run}/{len(self.blobs)}"
        self.blobs[reference] = data
        return reference

    async def get(self, reference: str) -> bytes:
        if reference not in self.blobs:
            raise NotFound(f"no blob {reference}")
        return self.blobs[reference]

    def read(self) -> Mapping[str, str]:
        return self.secrets
