"""Conditions and loops are those of Python."""

import asyncio

from headrace.local import LocalEngine
from headrace.sdk import App, Context

app = App("conditional")


@app.step
async def classify(text: str) -> str:
    """Say what a text is."""
    return "question" if text.endswith("?") else "order" if "buy" in text else "other"


@app.step
async def answer(text: str) -> str:
    """Answer a question."""
    return f"answered {text}"


@app.step
async def sell(text: str) -> str:
    """Sell something."""
    return f"sold {text}"


@app.workflow
async def mailbox(ctx: Context, texts: list[str]) -> list[str]:
    """Handle each text as what it is."""
    told = []
    for text in texts:
        match await ctx.step(classify, text):
            case "question":
                told.append(await ctx.step(answer, text))
            case "order":
                told.append(await ctx.step(sell, text))
            case other:
                told.append(other)
    return told


async def main() -> list[str]:
    """Handle three texts."""
    return await mailbox.start_and_wait(["who?", "buy it", "hello"])


async def embedded() -> None:
    """Run it in this process."""
    async with LocalEngine():
        print(await main())


if __name__ == "__main__":
    asyncio.run(embedded())
