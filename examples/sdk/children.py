"""Child workflows: awaited, begun and left alone, and continued as new."""

import asyncio

from headrace.local import LocalEngine
from headrace.sdk import App, Context, current_client

app = App("children")


@app.step
async def bill(customer: str, month: int) -> str:
    """Send a bill."""
    return f"{customer}-{month}"


@app.workflow
async def subscription(ctx: Context, customer: str, month: int, sent: list[str]) -> list[str]:
    """A bill each month; each month begins with an empty journal."""
    sent = [*sent, await ctx.step(bill, customer, month)]
    await ctx.sleep(0.01)
    if month < 3:
        ctx.continue_as_new(subscription, customer, month + 1, sent)
    return sent


@app.workflow
async def welcome(ctx: Context, customer: str) -> str:
    """Something that its parent does not wait for."""
    return f"welcome {customer}"


@app.workflow
async def customer(ctx: Context, name: str) -> list[str]:
    """Welcome a customer, and send bills."""
    welcomed = await ctx.start_child(welcome, name)
    return [*await ctx.child(subscription, name, 1, []), welcomed]


async def main() -> list[str]:
    """Run a customer, then ask for what was left alone."""
    *bills, welcomed = await customer.start_and_wait("ann")
    return [*bills, await current_client().handle(welcomed, welcome).result()]


async def embedded() -> None:
    """Run it in this process."""
    async with LocalEngine():
        print(await main())


if __name__ == "__main__":
    asyncio.run(embedded())
