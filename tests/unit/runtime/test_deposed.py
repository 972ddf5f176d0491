"""An owner that lost its shard without noticing."""

from __future__ import annotations

import asyncio

import pytest

from headrace.coordinator.shardlog import Fenced
from support.ownerkit import Kit, ask, cancel, settled


async def test_in_doubt_an_idle_owner_asks_the_log():
    kit = Kit()
    first = kit.owner()
    running = asyncio.create_task(first.run())
    await settled(first, running)
    first.doubt()
    async with kit.leading() as second:
        assert second.leading.is_set()
        # It has nothing to append, so nothing but the question tells it.
        first.doubt()
        with pytest.raises(Fenced):
            async with asyncio.timeout(30):
                await running


async def test_in_doubt_the_true_owner_goes_on():
    kit = Kit()
    async with kit.leading() as owner:
        owner.doubt()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        owner.post(lambda _: done.set_result(None))
        async with asyncio.timeout(30):
            await done
        assert owner.leading.is_set()


async def test_a_deposed_owner_says_no_to_nobody():
    """The successor may have logged what the request is about: a "no" would be final, and wrong."""
    kit = Kit()
    first = kit.owner()
    running = asyncio.create_task(first.run())
    await settled(first, running)
    async with kit.leading():
        asked = ask(first, cancel(first, "begun-under-the-successor"))
        with pytest.raises(Fenced):
            async with asyncio.timeout(30):
                await running
        assert asked.answer is None


async def test_a_cancel_is_heeded_though_the_owner_is_ending_already(monkeypatch):
    """Else who takes its shard away waits for ever, and it takes the shard again and again."""
    kit = Kit()
    first = kit.owner()
    ending, go = asyncio.Event(), asyncio.Event()

    async def lingers(post):
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await go.wait()

    monkeypatch.setattr(first._archiver, "run", lingers)
    running = asyncio.create_task(first.run())
    await settled(first, running)
    async with kit.leading():
        first.doubt()
        async with asyncio.timeout(30):
            await ending.wait()
            running.cancel()
            await asyncio.sleep(0)
            go.set()
            await asyncio.wait([running])
    assert running.cancelled()
