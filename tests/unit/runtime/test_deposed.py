"""An owner that lost its shard without noticing."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from headrace.coordinator.runtime.leading import _doubt
from headrace.coordinator.shardlog import Fenced
from support.ownerkit import Kit, settled


async def test_in_doubt_an_idle_owner_asks_the_log():
    kit = Kit()
    first = kit.owner()
    running = asyncio.create_task(first.run())
    await settled(first, running)
    first.post(partial(_doubt, first))
    async with kit.leading() as second:
        assert second.leading.is_set()
        # It has nothing to append, so nothing but the question tells it.
        first.post(partial(_doubt, first))
        with pytest.raises(Fenced):
            async with asyncio.timeout(5):
                await running


async def test_in_doubt_the_true_owner_goes_on():
    kit = Kit()
    async with kit.leading() as owner:
        owner.post(partial(_doubt, owner))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        owner.post(lambda _: done.set_result(None))
        async with asyncio.timeout(5):
            await done
        assert owner.leading.is_set()
