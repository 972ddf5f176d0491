"""A batch: child workflows in parallel, a few at a time, and most of them have to succeed."""

import asyncio

from headrace.local import LocalEngine
from headrace.sdk import App, Context, Retry

app = App("batch")


@app.step(retry=Retry(2, initial=0.01))
async def convert(item: int) -> int:
    """Convert one item; item 3 cannot be."""
    if item == 3:
        raise ValueError("item 3 is broken")
    return item * item


@app.workflow
async def convert_one(ctx: Context, item: int) -> int:
    """One item is a run of its own: with its own history, and on any worker."""
    return await ctx.step(convert, item)


@app.workflow
async def convert_all(ctx: Context, count: int) -> int:
    """Convert all; nine of ten are enough."""
    children = [ctx.child(convert_one, item) for item in range(count)]
    results = await ctx.parallel(children, join="90%", max_parallel=4)
    return sum(results)


async def main() -> int:
    """Convert ten items."""
    return await convert_all.start_and_wait(10)


async def embedded() -> None:
    """Run it in this process."""
    async with LocalEngine():
        print(await main())


if __name__ == "__main__":
    asyncio.run(embedded())
