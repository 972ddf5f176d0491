"""pytest plug-in: the fixture `headrace_engine`, a `headrace.local.testing.TestEngine`.

Loaded by the entry point `pytest11`, so it imports nothing before a test asks for it.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from headrace.local.testing import TestEngine

try:
    import pytest_asyncio
except ImportError:

    @pytest.fixture
    def headrace_engine() -> None:
        """Say what is missing."""
        raise pytest.UsageError("headrace_engine needs pytest-asyncio: pip install pytest-asyncio")

else:
    # Inside of pytest-asyncio's own, which looks for the mark: so no setting of it is needed.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_pycollect_makeitem() -> Generator[None, Any, Any]:
        """Mark async tests that ask for the engine as those that pytest-asyncio runs."""
        made = yield
        for item in made if isinstance(made, list) else [made]:
            if (
                isinstance(item, pytest.Function)
                and inspect.iscoroutinefunction(item.function)
                and "headrace_engine" in item.fixturenames
                and item.get_closest_marker("asyncio") is None
            ):
                item.add_marker("asyncio")
        return made

    @pytest_asyncio.fixture(name="headrace_engine")
    async def _headrace_engine() -> AsyncIterator[TestEngine]:
        """An engine in memory, with virtual time; see `headrace.local.testing`."""
        from headrace.local.testing import TestEngine

        async with TestEngine() as engine:
            yield engine
