"""Fixtures with real brokers on loopback. A conftest takes what it needs::

    from support.broker import broker, bus, shared_broker

    __all__ = ["broker", "bus", "shared_broker"]

`shared_broker` and `broker_cluster` live for a module or session and are never harmed by tests;
`broker` is a test's own, to kill, freeze and restart.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

import pytest

from headrace.bus import BrokerCluster, BrokerProcess, Bus, connect
from support.patience import PATIENCE


@pytest.fixture(scope="session")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """One server for the whole session, fsync always; use names of your own on it."""
    server = BrokerProcess(tmp_path_factory.mktemp("shared-broker"), name="shared")
    in_thread(server.start())
    yield server
    in_thread(server.stop())


@pytest.fixture(scope="session")
def broker_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerCluster]:
    """Three servers for the whole session."""
    cluster = BrokerCluster(tmp_path_factory.mktemp("broker-cluster"))
    in_thread(cluster.start())
    yield cluster
    in_thread(cluster.stop())


@pytest.fixture
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BrokerProcess]:
    """One server for one test, which may treat it as it likes."""
    server = BrokerProcess(tmp_path_factory.mktemp("broker"), name="own")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def bus(shared_broker: BrokerProcess) -> AsyncIterator[Bus]:
    """A connection to the shared broker."""
    async with await connect(shared_broker.url, name="test") as connection:
        yield connection


def in_thread(coroutine: Coroutine[object, object, None]) -> None:
    """Run *coroutine* from a synchronous fixture, wherever a loop may be running already."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(coroutine)
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="broker-fixture")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


async def eventually(
    condition: Callable[[], object], *, within_s: float = 5.0, step_s: float = 0.005
) -> None:
    """Return once *condition* is true; fail when it is not in `PATIENCE` times *within_s*."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + within_s * PATIENCE
    while not condition():
        assert loop.time() < deadline_s, f"not within {within_s * PATIENCE} s: {condition}"
        await asyncio.sleep(step_s)
