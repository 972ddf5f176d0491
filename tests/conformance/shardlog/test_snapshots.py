"""What every snapshot store promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace.bus import BrokerProcess, connect
from headrace.coordinator.shardlog import MemorySnapshotStore, ObjectSnapshotStore, SnapshotStore
from headrace.coordinator.shardlog.sqlite import SqliteSnapshotStore
from headrace.errors import NotFound


@pytest.fixture(params=["memory", "sqlite", pytest.param("object", marks=pytest.mark.integration)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SnapshotStore]:
    if request.param == "memory":
        yield MemorySnapshotStore()
    elif request.param == "sqlite":
        kept = SqliteSnapshotStore(tmp_path / "log.sqlite")
        yield kept
        await kept.close()
    else:
        server: BrokerProcess = request.getfixturevalue("shared_broker")
        async with await connect(server.url, name="test") as bus:
            objects = ObjectSnapshotStore(bus, bucket="conformance")
            await objects.ensure()
            yield objects
            await bus.js.delete_stream("OBJ_conformance")


@pytest.mark.parametrize("size", [0, 1, 128 * 1024, 128 * 1024 + 1, 5_000_000])
async def test_bytes_come_back(store: SnapshotStore, size: int):
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    name = await store.put(3, 42, data)
    assert await store.get(3, name) == data


async def test_names_are_a_shards_own_and_in_order_of_position(store: SnapshotStore):
    names = {position: await store.put(1, position, b"x") for position in (1000, 9, 20)}
    other = await store.put(2, 5, b"y")
    assert await store.names(1) == [names[9], names[20], names[1000]]
    assert await store.names(2) == [other]
    assert await store.names(3) == []


async def test_a_second_one_for_the_same_position_leaves_the_first(store: SnapshotStore):
    first = await store.put(1, 7, b"of the owner")
    second = await store.put(1, 7, b"of a deposed owner")
    assert first != second
    assert await store.get(1, first) == b"of the owner"
    assert await store.put(1, 7, b"of the owner") == first


async def test_deleted_is_gone_and_absent_is_fine(store: SnapshotStore):
    name = await store.put(1, 7, b"data")
    other = await store.put(1, 8, b"other")
    await store.delete(1, name)
    await store.delete(1, name)
    with pytest.raises(NotFound):
        await store.get(1, name)
    with pytest.raises(NotFound):
        await store.get(1, "never")
    assert await store.names(1) == [other]
    assert await store.get(1, other) == b"other"
