"""A user's code: type checkers find nothing wrong with it."""

from dataclasses import dataclass
from typing import assert_type

from headrace.sdk import App, Context, Handle, Operation, Retry, days

app = App("users")


@dataclass
class Order:
    id: str
    amount: int


@app.step(retry=Retry(5), timeout=30)
async def charge(order: Order, *, tip: int = 0) -> int:
    return order.amount + tip


@app.step
def label(order: Order) -> str:
    return order.id


@app.step(kind="process")
def crunch(n: int) -> float:
    return n / 2


@app.workflow
async def child(ctx: Context, n: int) -> str:
    return str(n)


@app.workflow
async def no_inputs(ctx: Context) -> None: ...


@app.workflow
async def named(ctx: Context, id: str) -> str:
    return id


async def both(ctx: Context, n: int) -> float:
    return await ctx.step(crunch, n)


@app.workflow
async def processing(ctx: Context, order: Order, days_max: int = 3) -> list[str]:
    assert_type(await ctx.step(charge, order, tip=3), int)
    assert_type(ctx.step(label, order), Operation[str])
    paid, text = await ctx.parallel(ctx.step(charge, order), ctx.step(label, order))
    assert_type(paid, int)
    assert_type(text, str)
    # Of different types in a list: what they have in common is all that a checker can know.
    _, either = await ctx.parallel([ctx.step(charge, order), ctx.step(label, order)])
    assert isinstance(either, str)
    assert_type(await ctx.parallel([both(ctx, 1), both(ctx, 2)], join="any"), list[float])
    assert_type(await ctx.map(crunch, [1, 2], max_parallel=2), list[float])
    assert_type(await ctx.child(child, 3), str)
    assert_type(await ctx.signal("go", Order, timeout=days(3)), Order)
    assert_type(await ctx.memo("m", lambda: 3), int)
    assert_type(await charge.options(key="x")(order), int)
    ctx.compensate(label, order)
    return [text]


async def main() -> None:
    assert_type(await processing.start(Order("a", 1)), Handle[list[str]])
    assert_type(await processing.start(Order("a", 1), id="a"), Handle[list[str]])
    assert_type(
        await processing.start(Order("a", 1), 4, id="a", labels={"team": "b"}), Handle[list[str]]
    )
    assert_type(await processing.start(Order("a", 1), days_max=4), Handle[list[str]])
    assert_type(await no_inputs.start(id="a", priority=3), Handle[None])
    assert_type(await named.start(id="an input"), Handle[str])
    assert_type(await child.start_and_wait(3, id="a"), str)
    assert_type(
        await processing.options(id="a").start_and_wait(Order("a", 1), days_max=4), list[str]
    )
