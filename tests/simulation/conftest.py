"""Options of the simulation."""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sim-seed", type=int, default=None, help="live through this one world, and tell it"
    )


@pytest.fixture
def one_seed(request: pytest.FixtureRequest) -> int | None:
    """The world that was asked for, if one was."""
    return request.config.getoption("--sim-seed", default=None)


@pytest.fixture
def seeds() -> range:
    """Which worlds to live through: HEADRACE_SIM_SEEDS of them, from HEADRACE_SIM_FIRST on."""
    first = int(os.environ.get("HEADRACE_SIM_FIRST", "0"))
    return range(first, first + int(os.environ.get("HEADRACE_SIM_SEEDS", "1000")))
