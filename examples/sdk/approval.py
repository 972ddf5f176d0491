"""An approval that may take days: the run waits, and holds no worker meanwhile."""

import asyncio

import msgspec

from headrace.local import LocalEngine
from headrace.sdk import App, Context, days

app = App("approval")


class Approval(msgspec.Struct):
    """What a person decides."""

    ok: bool
    by: str = "nobody"


@app.step
async def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


@app.workflow
async def expense(ctx: Context, amount: int) -> str:
    """Small expenses are paid at once, others wait for a person, three days at most."""
    if amount > 100:
        approval = await ctx.signal("approval", Approval, timeout=days(3), default=Approval(False))
        if not approval.ok:
            return f"refused by {approval.by}"
    return await ctx.step(pay, amount)


async def main() -> list[str]:
    """Two expenses: one waits until somebody says yes."""
    small = await expense.start_and_wait(50)
    large = await expense.start(500)
    await large.signal("approval", Approval(True, by="ann"))
    return [small, await large.result()]


async def embedded() -> None:
    """Run it in this process."""
    async with LocalEngine():
        print(await main())


if __name__ == "__main__":
    asyncio.run(embedded())
