import contextlib
from collections.abc import AsyncIterator

import pytest

from headrace.bus import BrokerProcess, Bus, JetStreamMissing, connect
from headrace.coordinator.archive import Archive
from headrace.coordinator.archive.jetstream import JetStreamArchive
from headrace.coordinator.archive.memory import MemoryArchive
from headrace.coordinator.archive.postgres import PostgresArchive
from headrace.coordinator.archive.records import BUCKET, INDEX_STREAM, STREAM
from headrace.coordinator.archive.sqlite import SqliteArchive
from support.broker import shared_broker
from support.postgres import own_schema, postgres, shared_postgres

__all__ = ["postgres", "shared_broker", "shared_postgres"]


async def clear(bus: Bus) -> None:
    """Empty what the archive of an earlier test left in the broker."""
    for stream in (STREAM, INDEX_STREAM, f"OBJ_{BUCKET}"):
        # Not deleted: the server may still be removing the folder when the stream is made again.
        with contextlib.suppress(JetStreamMissing):
            await bus.js.purge(stream, subject=">")


@pytest.fixture
async def archive_bus(shared_broker: BrokerProcess) -> AsyncIterator[Bus]:
    async with await connect(shared_broker.url, name="archive") as bus:
        await clear(bus)
        yield bus


@pytest.fixture(
    params=[
        "memory",
        "sqlite",
        pytest.param("jetstream", marks=pytest.mark.integration),
        pytest.param("postgres", marks=pytest.mark.integration),
    ]
)
async def archive(request, tmp_path) -> AsyncIterator[Archive]:
    if request.param == "memory":
        store = MemoryArchive()
        yield store
    elif request.param == "sqlite":
        store = await SqliteArchive.open(tmp_path / "archive.db")
        yield store
    elif request.param == "postgres":
        store = PostgresArchive(
            own_schema(request.getfixturevalue("shared_postgres")), coordinator="c0"
        )
        yield store
    else:
        shared = request.getfixturevalue("shared_broker")
        async with await connect(shared.url, name="archive") as bus:
            await clear(bus)
            store = await JetStreamArchive.open(bus)
            yield store
            await store.close()
        return
    await store.close()
