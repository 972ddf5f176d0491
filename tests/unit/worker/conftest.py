"""A bench with an executor that is closed after each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from support.worker_bench import Bench


@pytest.fixture
def at_once() -> bool:
    """Whether executors run what they are given before `submit` returns; modules have their own."""
    return False


@pytest.fixture
async def make_bench(tmp_path: Path, at_once: bool) -> AsyncIterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(Bench(tmp_path / f"bench{len(made)}", **{"at_once": at_once, **settings}))
        return made[-1]

    yield make
    for bench in made:
        await bench.executor.close(kill_s=2)


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()
