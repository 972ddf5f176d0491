"""A user of the shared `flowctl dev`: helpers that say what somebody would type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.broker import in_thread
from support.cluster import Dev, Ran, wait_for


class User:
    """Types commands at a cluster."""

    def __init__(self, dev: Dev, folder: Path) -> None:
        self.dev, self.folder = dev, folder
        self._count = 0

    def file(self, text: str) -> str:
        """Return the path of a workflow file with *text*."""
        self._count += 1
        path = self.folder / f"workflow-{self._count}.yaml"
        path.write_text(text)
        return str(path)

    def shell(self, script: str, *, name: str = "one", more: str = "") -> str:
        """Return a workflow file of one job with one step."""
        lines = "\n".join(f"          {line}" for line in script.splitlines())
        return self.file(
            f"name: {name}\njobs:\n  main:\n    runs-on: linux\n    steps:\n"
            f"      - id: step\n        run: |\n{lines}\n{more}"
        )

    async def __call__(self, *arguments: str, code: int | None = 0, **options: Any) -> Ran:
        """Run a command that must exit with *code* (None: with any)."""
        ran = await self.dev.flowctl(*arguments, **options)
        assert code is None or ran.code == code, f"{arguments}: exit {ran.code}\n{ran.err}{ran.out}"
        assert "Traceback" not in ran.err
        return ran

    async def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with `-o json`."""
        return (await self(*arguments, "-o", "json", code=code)).json

    async def start(self, *arguments: str) -> str:
        """Submit and return the run's id."""
        return (await self("submit", *arguments, "-o", "name")).out.strip()

    async def end(self, run: str, *, state: str = "COMPLETED") -> dict[str, Any]:
        """Wait for the end of a run."""
        code = {"COMPLETED": 0, "FAILED": 1, "CANCELLED": 2}[state]
        found: dict[str, Any] = await self.json("get", run, "--watch", code=code)
        assert found["state"] == state
        return found

    async def reason(self, run: str, text: str, *, within_s: float = 15.0) -> dict[str, Any]:
        """Return the reason of `explain` that holds *text*, once there is one."""

        async def look() -> dict[str, Any] | None:
            for reason in (await self.json("explain", run))["reasons"]:
                if text in reason["reason"]:
                    return dict(reason)
            return None

        return await wait_for(look, within_s=within_s, what=f"the reason {text!r}")

    async def step(self, run: str, path: str, state: str, *, within_s: float = 15.0) -> Any:
        """Return a step once it is in *state*."""

        async def look() -> Any:
            steps = (await self.json("get", run))["steps"]
            return next((s for s in steps if s["path"] == path and s["state"] == state), None)

        return await wait_for(look, within_s=within_s, what=f"{path} to be {state}")


TICK = """\
name: tick
jobs:
  main:
    runs-on: linux
    steps:
      - run: echo ran
"""


@pytest.fixture(scope="session")
def ticking(shared_dev: Dev, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A schedule of every minute: made before the first test, since one has to see it fire."""
    file = tmp_path_factory.mktemp("tick") / "tick.yaml"
    file.write_text(TICK)

    async def create() -> None:
        ran = await shared_dev.flowctl(
            *("schedule", "create", "tick", "--workflow", str(file), "--cron", "* * * * *"),
            *("--overlap", "skip", "--catch-up", "all"),
        )
        assert ran.code == 0, ran.err

    in_thread(create())
    return "tick"


@pytest.fixture
def user(shared_dev: Dev, ticking: str, tmp_path: Path) -> User:
    return User(shared_dev, tmp_path)


def objects(text: str) -> list[Any]:
    """Return the objects of text with one a line."""
    return [json.loads(line) for line in text.splitlines()]
