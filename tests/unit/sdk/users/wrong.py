"""A user's mistakes: each marked line is an error to type checkers, and no other."""

from headrace.sdk import App, Context

app = App("users")


@app.step
async def charge(amount: int) -> str:
    return str(amount)


@app.step
def label(text: str) -> str:
    return text


@app.workflow
async def child(ctx: Context, n: int) -> str:
    return str(n)


@app.workflow
async def processing(ctx: Context, name: str) -> int:
    await ctx.step(charge, "three")  # wrong
    await ctx.step(charge)  # wrong
    await ctx.step(label, "a", "b")  # wrong
    await ctx.step(charge, amount="x")  # wrong
    await ctx.child(child, "n")  # wrong
    await ctx.map(charge, ["a"])  # wrong
    await ctx.sleep("3 days")  # wrong
    await ctx.signal("go", int, timeout="a day")  # wrong
    ctx.compensate(label, 3)  # wrong
    number: int = await ctx.step(charge, 3)  # wrong
    return number


async def main() -> None:
    await processing.start(3)  # wrong
    await processing.start_and_wait()  # wrong
    await processing.start(3, id="a")  # wrong
    await processing.start(id="a")  # wrong
    await processing.start("a", id=3)  # wrong
    await processing.start("a", idd="a")  # wrong
    await processing.start("a", "b", id="a")  # wrong
    await child.start_and_wait("n", id="a")  # wrong
