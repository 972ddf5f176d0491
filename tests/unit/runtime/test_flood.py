"""Clients that submit faster than the log takes it are told to wait; nothing taken is lost."""

from __future__ import annotations

from headrace.messages import ResultBatch, ResultReply, decode
from support.broker import eventually
from support.ownerkit import Asked, Kit, ask, store, submission
from support.plans import plan, wait

BUDGET = 1024 * 1024
SIZE = 4_096
"""As large as one batch says that it is."""
WAITS = plan(wait("go"))


async def test_a_flood_is_turned_away_at_the_budget_and_what_was_taken_is_kept() -> None:
    kit = Kit()
    async with kit.leading(inbox_bytes_max=BUDGET) as owner:
        digest = await store(owner, WAITS)
        kit.log.gate.clear()
        first = ask(owner, submission(owner, digest, "first"), size=SIZE)
        await eventually(lambda: kit.log.waiting == 1)
        flood: list[Asked] = []
        for number in range(1_000):
            flood.append(ask(owner, submission(owner, digest, f"r{number}"), size=SIZE))
            assert owner.figures().inbox_bytes <= BUDGET
        refused = [asked for asked in flood if asked.answer is not None]
        assert len(refused) >= 1_000 - 2 * BUDGET // SIZE, "the rest is told at once"
        for asked in refused:
            (reply,) = await asked.replies()
            assert (reply.code, reply.retry_after_ms) == ("busy", 100)
        assert first.answer is None, "nothing is acknowledged before it is in the log"
        kit.log.gate.set()
        taken = [asked for asked in flood if asked not in refused]
        acknowledged = [(await asked.reply()).code == "" for asked in (first, *taken)]
        assert all(acknowledged)
        again = ask(owner, submission(owner, digest, "again"), size=SIZE)
        assert not (await again.reply()).code, "there is room again"
    assert len(kit.folded().runs) == len(acknowledged) + 1


async def test_results_are_asked_for_again_later() -> None:
    """A worker keeps what the owner has no room for, and stops at its own budget."""
    kit = Kit()
    async with kit.leading(inbox_bytes_max=BUDGET) as owner:
        digest = await store(owner, WAITS)
        kit.log.gate.clear()
        ask(owner, submission(owner, digest, "first"), size=SIZE)
        await eventually(lambda: kit.log.waiting == 1)
        flood = [ask(owner, submission(owner, digest), size=BUDGET // 4) for _ in range(6)]
        told: list[bytes] = []
        owner.post_results(ResultBatch(1, "w", "1", []), told.append, BUDGET // 2)
        assert decode(ResultReply, told[0]).retry_after_ms > 0
        kit.log.gate.set()
        assert (await flood[-1].reply()).code == "busy"
