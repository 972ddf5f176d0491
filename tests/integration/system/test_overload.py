"""A client that submits faster than a cluster can do is told to wait; what was taken is done."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from headrace.bus import connect
from headrace.client import Submission
from headrace.messages import (
    ClientBatch,
    ClientReply,
    GetRun,
    ReplyBatch,
    RunView,
    StorePlan,
    SubmitRun,
    decode,
    encode,
    subjects,
)
from headrace.plan import Group, Plan, Task, encode_plan, plan_digest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("system"),
]

RUNS, ARRAY = 8_000, 250
ONE_STEP = Plan(
    name="one", nodes=(Group(name="one", size=2), Task(name="a", uses="noop", parent=0))
)


async def test_a_flood_is_turned_away_with_a_name_and_all_that_was_taken_ends(cluster):
    client = await cluster.client()
    slots = (await client.info()).slots
    bus = await connect([cluster.servers], name="flood")

    async def send(shard: int, requests: list, subject: str = "") -> list[ClientReply]:
        data = encode(ClientBatch(1, "default", requests))
        subject = subject or subjects.command("default", shard)
        message = await bus.request(subject, data, timeout_s=60)
        return decode(ReplyBatch, message.data).replies

    def shard_of(run: str) -> int:
        number, upto = subjects.slot_of(f"default/{run}"), 0
        for shard, count in zip(slots[::2], slots[1::2], strict=True):
            upto += count
            if number < upto:
                return shard
        raise AssertionError(slots)

    digest, late_ms = plan_digest(ONE_STEP), int(time.time() * 1_000) + 60_000
    by_shard: dict[int, list[SubmitRun]] = {}
    for number in range(RUNS):
        run = f"flood-{number}"
        submit = SubmitRun(run=run, request_id=run, not_after_ms=late_ms, plan=digest)
        by_shard.setdefault(shard_of(run), []).append(submit)
    try:
        for shard in by_shard:
            assert not (await send(shard, [StorePlan(plan=encode_plan(ONE_STEP))]))[0].code
        arrays = [
            (shard, submits[first : first + ARRAY])
            for shard, submits in by_shard.items()
            for first in range(0, len(submits), ARRAY)
        ]
        replies = await asyncio.gather(*(send(shard, array) for shard, array in arrays))
        away = [reply for some in replies for reply in some if reply.code]
        assert {reply.code for reply in away} == {"busy"}
        assert all(100 <= reply.retry_after_ms <= 2_000 for reply in away)
        assert "is offered more than it can do" in away[0].message
        taken = {
            shard: [
                submit.run
                for (where, array), some in zip(arrays, replies, strict=True)
                if where == shard
                for submit, reply in zip(array, some, strict=True)
                if not reply.code
            ]
            for shard in by_shard
        }
        for shard, runs in taken.items():
            assert await ended(partial(send, shard), runs) == len(runs)
        # The library comes again when it is told to, and gets all of them through.
        views = await client.submit_many([Submission(plan=ONE_STEP)] * 3_000)
        assert [view for view in views if isinstance(view, Exception)] == []
    finally:
        await bus.close()
        await client.close()


async def ended(send, runs: list[str]) -> int:
    """Return how many of *runs* have been completed: open ones are waited for."""
    done = 0
    for first in range(0, len(runs), ARRAY):
        some = [GetRun(run=r, wait_ms=30_000, steps=False) for r in runs[first : first + ARRAY]]
        # One that has ended long ago has left for the archive.
        replies = await send(some)
        closed = [s for s, reply in zip(some, replies, strict=True) if reply.code == "not-found"]
        replies = [reply for reply in replies if reply.code != "not-found"]
        if closed:
            replies += await send(closed, subjects.archive("default"))
        assert not any(reply.code for reply in replies), replies
        views = [decode(RunView, bytes(reply.result)) for reply in replies]
        done += sum(view.state == "COMPLETED" for view in views)
    return done
