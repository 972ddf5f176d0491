"""An order: fetched, charged and labelled at the same time, undone when something fails.

Run it here, without a server: ``python examples/sdk/order_processing.py``
"""

import asyncio

import msgspec

from headrace.local import LocalEngine
from headrace.sdk import App, Context, NonRetryable, Retry, step_info

app = App("orders")


class Order(msgspec.Struct):
    """What a customer wants."""

    id: str
    amount: int


@app.step(retry=Retry(5, initial=0.05), timeout=30)
async def fetch_order(order_id: str) -> Order:
    """Read the order; a database call in real life."""
    return Order(order_id, amount=42)


@app.step(retry=Retry(5, initial=0.05))
async def charge(order: Order) -> str:
    """Charge once, however often it is tried: the payment service knows the key."""
    if order.amount <= 0:
        raise NonRetryable("nothing to pay")
    return f"receipt for {order.amount} ({step_info().idempotency_key().rpartition('/')[2]})"


@app.step
def print_label(order: Order) -> str:
    """Plain functions run in threads."""
    return f"label {order.id}"


@app.step
async def refund(receipt: str) -> None:
    """Give the money back."""


@app.workflow
async def order_processing(ctx: Context, order_id: str) -> list[str]:
    """Process one order."""
    order = await ctx.step(fetch_order, order_id)
    receipt, label = await ctx.parallel(ctx.step(charge, order), ctx.step(print_label, order))
    ctx.compensate(refund, receipt)
    ctx.set_label("customer", order.id)
    return [receipt, label]


async def main() -> list[str]:
    """Process an order by whatever engine or cluster is in use."""
    return await order_processing.start_and_wait("o-7")


async def embedded() -> None:
    """Run it in this process."""
    async with LocalEngine():
        print(await main())


if __name__ == "__main__":
    asyncio.run(embedded())
