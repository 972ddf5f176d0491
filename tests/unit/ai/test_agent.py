"""An agent in the embedded engine: tools, budgets, people; and what the journal has of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.ai import (
    Agent,
    ChatReply,
    ChatRequest,
    Message,
    ProviderError,
    Scripted,
    ToolCall,
    Usage,
)
from headrace.ai.agent import tool_spec
from headrace.errors import InvalidRequest
from headrace.evidence import check
from headrace.local import LocalEngine
from headrace.sdk import App, Context, Retry, RunFailed

TOOLS = App("tools")
PAID: list[int] = []


def made(answers: Any, **options: Any) -> tuple[App, Any, Scripted]:
    """Return an app with an agent that has two tools, and its workflow."""
    app, provider = App("tools"), Scripted(answers)

    @app.step
    async def double(n: int) -> int:
        """Double a number."""
        return 2 * n

    @app.step
    async def pay(cents: int, to: str = "ada") -> str:
        PAID.append(cents)
        if cents < 0:
            raise ValueError("less than nothing")
        return f"paid {cents} to {to}"

    agent = Agent(
        app, "helper", provider=provider, model="m-1", tools=[double, pay],
        retry=Retry(3, initial=0.001), temperature=0.0, **options,
    )  # fmt: skip

    @app.workflow
    async def work(ctx: Context, prompt: str) -> dict[str, Any]:
        result = await agent.run(ctx, prompt)
        return {
            "text": result.text, "turns": result.turns, "tokens": result.usage.total,
            "stopped": result.stopped,
        }  # fmt: skip

    return app, work, provider


def wish(name: str, number: int = 1, **arguments: Any) -> ChatReply:
    return ChatReply(calls=[ToolCall(f"c{number}", name, arguments)], usage=Usage(10, 5))


async def run(answers: Any, **options: Any) -> tuple[dict[str, Any], Scripted]:
    app, work, provider = made(answers, **options)
    async with LocalEngine(apps=[app]) as engine:
        handle = await engine.start(work, "go")
        return await handle.result(), provider


async def test_it_calls_tools_until_the_model_is_done() -> None:
    said, provider = await run(
        [wish("double", n=4), ProviderError("overloaded", "x", retryable=True), "It is 8."]
    )
    assert said == {"text": "It is 8.", "turns": 2, "tokens": 15, "stopped": ""}
    last = provider.requests[-1]
    assert last.messages[-1] == Message("tool", "8", call_id="c1")
    assert [tool.name for tool in last.tools] == ["double", "pay"]
    assert len(provider.requests) == 3, "the overloaded one was asked again, the first was not"


async def test_what_goes_wrong_with_a_tool_is_told_to_the_model() -> None:
    _, provider = await run(
        [
            wish("double", n="four"),
            wish("no_such", 2),
            wish("pay", 3, cents=-1),
            wish("double", 4),
            "sorry",
        ]
    )
    told = [m.text for m in provider.requests[-1].messages if m.role == "tool"]
    assert "n does not fit int" in told[0]
    assert told[1] == "error: there is no tool 'no_such'; there are double, pay"
    assert told[2] == "error: ValueError: less than nothing"
    assert "missing input n" in told[3]


@pytest.mark.parametrize(
    ("options", "turns", "stopped"),
    [({"turns_max": 2}, 2, "turns"), ({"tokens_max": 40}, 3, "tokens")],
)
async def test_budgets(options: dict[str, Any], turns: int, stopped: str) -> None:
    said, _ = await run(lambda _: wish("double", n=1), **options)
    assert (said["turns"], said["stopped"]) == (turns, stopped)


async def test_a_budget_may_fail_the_run() -> None:
    with pytest.raises(RunFailed, match="budget of turns is used up after 2 turns"):
        await run(lambda _: wish("double", n=1), turns_max=2, on_budget="fail")


async def test_a_refusal_of_the_provider_fails_at_once() -> None:
    app, work, provider = made([ProviderError("refused", "no such model", retryable=False)])
    async with LocalEngine(apps=[app]) as engine:
        handle = await engine.start(work, "go")
        with pytest.raises(RunFailed, match="no such model"):
            await handle.result()
    assert len(provider.requests) == 1


@pytest.mark.parametrize("approved", [True, False])
async def test_a_person_allows_a_tool(approved: bool) -> None:
    PAID.clear()
    app, work, provider = made([wish("pay", cents=5), "ok"], approve={"pay"})
    async with LocalEngine(apps=[app]) as engine:
        handle = await engine.start(work, "go")
        decision = {"approved": approved, "comment": "too much"}
        await handle.signal("helper-approval", decision, correlation_key="c1")
        await handle.result()
    assert [5] * approved == PAID
    expected = "paid 5 to ada" if approved else "error: not allowed: too much"
    assert provider.requests[-1].messages[-1].text == expected


async def test_nobody_answers_is_a_no() -> None:
    said, provider = await run(
        [wish("pay", cents=5), "ok"], approve=lambda call: call.name == "pay", approval_timeout=0.05
    )
    assert said["text"] == "ok"
    assert "nobody has answered in time" in provider.requests[-1].messages[-1].text


async def test_model_and_parameters_are_recorded() -> None:
    app, work, _ = made([wish("double", n=4), "done"])
    async with LocalEngine(apps=[app]) as engine:
        handle = await engine.start(work, "go")
        await handle.result()
        text = await engine.evidence(handle.id)
    assert check(text).findings == []
    bundle = json.loads(text)
    ends = [event["data"] for event in bundle["events"] if event["type"] == "EntryEnded"]
    asked = next(data for data in ends if data["name"] == "helper-model")
    assert asked["value"]["model"] == "m-1"
    assert asked["value"]["parameters"] == {"max_tokens": 1_024, "temperature": 0.0}
    # Each entry of the journal has a record of its own.
    records = {record["path"]: record for record in bundle["steps"]}
    model = records["helper-model#1"]
    assert (model["uses"], model["state"]) == ("step:helper-model", "COMPLETED")
    (attempt,) = model["attempts"]
    assert attempt["inputs"] == asked["digest"]
    assert attempt["outcome"] == "completed"
    assert attempt["worker"]
    assert records["double#1"]["output"]


def test_a_tool_is_described_by_its_docstring_and_annotations() -> None:
    @TOOLS.step
    async def find(words: list[str], limit: int = 3) -> list[str]:
        """Find texts."""
        return words[:limit]

    spec = tool_spec(find)
    assert (spec.name, spec.description) == ("find", "Find texts.")
    assert spec.parameters["required"] == ["words"]
    assert spec.parameters["properties"] == {
        "words": {"type": "array", "items": {"type": "string"}},
        "limit": {"type": "integer"},
    }
    with pytest.raises(InvalidRequest, match="turns_max"):
        Agent(App("x"), "a", provider=Scripted([]), model="m", turns_max=0)


async def test_words_are_streamed_as_they_come_and_recorded_whole() -> None:
    app, work, _ = made(["one two three"], stream="words")
    async with LocalEngine(apps=[app]) as engine:
        handle = await engine.start(work, "go")
        told = [piece async for piece in handle.stream("words")]
        assert [piece["text"] for piece in told] == ["one", " two", " three"]
        assert {piece["attempt"] for piece in told} == {1}
        assert (await handle.result())["text"] == "one two three"
        steps = [step for step in (await handle.view()).steps if step.kind == "step"]
        assert [step.outputs["reply"]["text"] for step in steps] == ["one two three"]


def test_a_provider_that_answers_in_one_piece_cannot_be_streamed() -> None:
    class Plain:
        name = "plain"

        async def chat(self, request: ChatRequest) -> ChatReply:
            return ChatReply()

    with pytest.raises(InvalidRequest, match="provider plain answers in one piece"):
        Agent(App("tools"), "helper", provider=Plain(), model="m", stream="words")
