"""A workflow with two steps and a sleep, on an owner in memory."""

import msgspec
import pytest

from headrace.messages import EntryState, TurnOutcome
from headrace.sdk import App, Context, days
from support.journal_owner import JournalOwner
from support.turns import run_to_end

app = App("orders")
ran: list[str] = []


class Order(msgspec.Struct):
    id: str
    amount: int


@app.step
async def fetch(order_id: str) -> Order:
    ran.append(f"fetch {order_id}")
    return Order(order_id, 5)


@app.step
def charge(order: Order) -> str:
    ran.append(f"charge {order.amount}")
    return f"receipt of {order.id}"


@app.workflow
async def processing(ctx: Context, order_id: str) -> str:
    order = await ctx.step(fetch, order_id)
    await ctx.sleep(days(3))
    return await ctx.step(charge, order)


@pytest.mark.parametrize("sticky", [False, True])
async def test_two_steps_and_a_sleep(sticky):
    ran.clear()
    owner = await run_to_end(processing, JournalOwner({"order_id": "o1"}), sticky=sticky)
    assert owner.end.outcome == TurnOutcome.COMPLETED, owner.end
    assert msgspec.msgpack.decode(owner.end.value) == "receipt of o1"
    assert ran == ["fetch o1", "charge 5"]
    assert list(owner.journal) == ["fetch#1", "sleep#1", "charge#1"]
    assert all(e.state == EntryState.COMPLETED for e in owner.journal.values())
    assert owner.now_ms == 1_000 + 3 * 86_400_000
