"""A broker for each test, and a cluster on it in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace.bus import BrokerProcess
from support.broker import broker
from support.incluster import InCluster, in_cluster

__all__ = ["broker"]


@pytest.fixture
async def cluster(broker: BrokerProcess, tmp_path: Path) -> AsyncIterator[InCluster]:
    async with in_cluster(broker, tmp_path) as made:
        yield made
