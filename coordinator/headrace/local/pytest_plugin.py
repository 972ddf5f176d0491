"""pytest plug-in: the fixture `headrace_engine`, a `headrace.local.testing.TestEngine`.

Loaded by the entry point `pytest11`, so it imports nothing before a test asks for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

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

    @pytest_asyncio.fixture(name="headrace_engine")
    async def _headrace_engine() -> AsyncIterator[TestEngine]:
        """An engine in memory, with virtual time; see `headrace.local.testing`."""
        from headrace.local.testing import TestEngine

        async with TestEngine() as engine:
            yield engine
