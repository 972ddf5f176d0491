"""A long activity that says how far it is, and goes on from there when it is tried again."""

import asyncio

from headrace.local import LocalEngine
from headrace.sdk import App, Context, Retry, step_info

app = App("heartbeat")


@app.step(retry=Retry(5, initial=0.01), heartbeat_timeout=5)
async def copy_rows(count: int) -> list[int]:
    """Copy rows; the first attempt breaks down in the middle."""
    info = step_info()
    first: int = info.last_details(int) or 0
    copied = []
    for row in range(first, count):
        await asyncio.sleep(0.001)
        copied.append(row)
        info.heartbeat(row + 1)
        if row == 5 and info.attempt == 1:
            raise ConnectionError("the other side has gone")
    return copied


@app.workflow
async def migration(ctx: Context, rows: int) -> list[int]:
    """Copy everything."""
    ctx.emit({"rows": rows})
    return await ctx.step(copy_rows, rows)


async def main() -> list[int]:
    """Copy ten rows: the second attempt begins at row 6."""
    return await migration.start_and_wait(10)


async def embedded() -> None:
    """Run it in this process."""
    async with LocalEngine():
        print(await main())


if __name__ == "__main__":
    asyncio.run(embedded())
