"""An agent with tools, and a person who allows what costs money.

Embedded, without any server:

    python examples/ai/agent.py

On a server:

    flowctl dev --app agent:app          # with PYTHONPATH=examples/ai
    flowctl signal RUN desk-approval --payload '{"approved": true}' --correlation-key call-2

The model here is a script, so that it runs anywhere. For a real one: ``OpenAI()`` or
``Anthropic()`` of `headrace.ai`, with the key in the worker's environment.
"""

import asyncio

from headrace.ai import Agent, ChatReply, ChatRequest, Scripted, ToolCall, Usage
from headrace.local import LocalEngine
from headrace.sdk import App, Context, Retry

app = App("desk")

ORDERS = {7: {"state": "lost", "cents": 4200}}


@app.step(retry=Retry(3))
async def look_up(number: int) -> dict[str, object]:
    """Return what is known of an order."""
    return dict(ORDERS.get(number, {"state": "unknown"}))


@app.step(effect="at-most-once")
async def refund(number: int, cents: int) -> str:
    """Pay money back."""
    return f"refunded {cents} cents of order {number}"


def script(request: ChatRequest) -> ChatReply:
    """Answer as a model would: look first, then act, then say what was done."""
    results = [message.text for message in request.messages if message.role == "tool"]
    if not results:
        call = ToolCall("call-1", "look_up", {"number": 7})
        return ChatReply(calls=[call], usage=Usage(60, 12))
    if len(results) == 1:
        call = ToolCall("call-2", "refund", {"number": 7, "cents": 4200})
        return ChatReply("It is lost.", calls=[call], usage=Usage(90, 15))
    return ChatReply(f"Done: {results[-1]}.", usage=Usage(120, 9))


desk = Agent(
    app,
    "desk",
    provider=Scripted(script),
    model="script-1",
    instructions="You help customers of a shop. Look up an order before you act.",
    tools=[look_up, refund],
    approve={"refund"},
    approval_timeout=3 * 86_400,
    turns_max=8,
    tokens_max=20_000,
)


@app.workflow
async def answer(ctx: Context, question: str) -> str:
    """Answer a customer."""
    result = await desk.run(ctx, question)
    ctx.set_label("turns", str(result.turns))
    return result.text


async def main() -> str:
    """One question: the refund waits until somebody allows it."""
    handle = await answer.start("Where is my order 7?")
    await handle.signal("desk-approval", {"approved": True}, correlation_key="call-2")
    return await handle.result()


async def embedded() -> None:
    """Run it in this process."""
    async with LocalEngine():
        print(await main())


if __name__ == "__main__":
    asyncio.run(embedded())
