"""A coordinator whose clock is off owns nothing, and everybody is told."""

import asyncio
import contextlib
import logging
import time

import pytest

from headrace.bus import connect
from headrace.client import Client
from headrace.config import Config, Coordinator
from headrace.coordinator.runtime import skew
from headrace.coordinator.runtime.server import CoordinatorServer
from headrace.language import compile_workflow
from support.broker import broker, eventually

__all__ = ["broker"]
pytestmark = pytest.mark.integration


class OffClock:
    """The system's clock, set wrong."""

    def __init__(self, off_ms):
        self.off_ms = off_ms

    def now_ms(self):
        return int(time.time() * 1_000) + self.off_ms

    def monotonic(self):
        return time.monotonic()


@contextlib.asynccontextmanager
async def coordinator(broker, tmp_path, clock, **settings):
    config = Config(
        coordinator=Coordinator(
            shards_journal=2,
            shards_snapshot=0,
            shards_memory=0,
            clock_skew_ms_max=1_000,
            data_dir=str(tmp_path / settings.get("id", "c")),
            **{"archive": "sqlite", **settings},
        )
    )
    async with await connect(broker.url, name="coordinator") as bus:
        server = CoordinatorServer(bus, config, clock=clock)
        work = asyncio.create_task(server.run())
        try:
            yield server
        finally:
            work.cancel()
            await asyncio.wait([work])


def leads(server):
    return sorted(
        number
        for number, shard in server.shards.items()
        if shard.owner is not None and shard.owner.leading.is_set()
    )


async def test_alone_it_owns_nothing_until_its_clock_is_right(
    broker, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(skew, "MEASURE_S", 0.05)
    clock = OffClock(30_000)
    with caplog.at_level(logging.CRITICAL, logger="headrace"):
        async with coordinator(broker, tmp_path, clock) as server:
            await eventually(lambda: server.archive is not None)
            await eventually(lambda: server.control.is_controller)
            assert 29_000 < server.skew.ms < 31_000
            async with await Client.connect(broker.url) as client:
                (warning,) = (await client.info()).warnings
                assert "is 30.0 s ahead of the broker's (limit 1 s): it owns no shard" in warning
                assert leads(server) == []
                clock.off_ms = 0
                await eventually(lambda: leads(server) == [0, 1], within_s=10)
                assert (await client.info()).warnings == []
                clock.off_ms = -5_000
                await eventually(lambda: leads(server) == [], within_s=10)
    assert sum("clock is too far" in record.message for record in caplog.records) == 2


async def test_of_two_the_other_one_owns_everything(broker, tmp_path, monkeypatch):
    monkeypatch.setattr(skew, "MEASURE_S", 0.05)
    peers = ("c0", "c1")
    shared = {"peers": peers, "archive": "jetstream"}
    off, right = OffClock(0), OffClock(0)
    async with (
        coordinator(broker, tmp_path, off, id="c0", **shared) as first,
        coordinator(broker, tmp_path, right, id="c1", **shared) as second,
    ):
        await eventually(lambda: len(leads(first)) == len(leads(second)) == 1, within_s=15)
        off.off_ms = 20_000
        await eventually(lambda: leads(second) == [0, 1], within_s=15)
        assert leads(first) == []
        async with await Client.connect(broker.url) as client:
            for _ in range(4):
                # Whoever answers.
                assert any("clock of c0" in text for text in (await client.info()).warnings)


async def test_a_clock_that_jumps_does_not_take_its_shards_along(broker, tmp_path):
    """Logged time never goes back: an hour ahead, once logged, would stop all for an hour."""
    plan = compile_workflow("tasks: [{name: nap, type: sleep, config: {duration: 20ms}}]")
    clock = OffClock(0)
    async with coordinator(broker, tmp_path, clock) as server:
        await eventually(lambda: leads(server) == [0, 1], within_s=10)
        async with await Client.connect(broker.url) as client:
            for off_ms in (3_600_000, 0, -3_600_000, 0):
                clock.off_ms = off_ms
                # Of several runs both shards have some.
                runs = [await client.submit(plan) for _ in range(8)]
                for run in runs:
                    assert (await client.wait(run.id, 10)).state == "COMPLETED"
