"""Steps: retries, timeouts, processes, claims, keys and values."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import pydantic
import pytest

from headrace.messages import EntryState, StepClaim, TurnOutcome
from headrace.sdk import (
    App,
    Context,
    EffectUnknown,
    Retry,
    StepFailed,
    step_info,
)
from support.flows import echo, ended, fails, fatal, no_key, ran, result, value
from support.journal_owner import JournalOwner
from support.turns import Worker, run_to_end

app = App("context", version="2.1")


# -- steps --------------------------------------------------------------------------------------


async def test_retries_wait_their_time_and_details_reach_the_next_attempt():
    async def body(ctx: Context) -> str:
        with pytest.raises(StepFailed) as caught:
            await ctx.step(fails, "x")
        return f"{caught.value.type} {caught.value.attempts} {caught.value}"

    owner = JournalOwner()
    text = await result(body, owner=owner)
    assert text.startswith("OSError 3 step fails#1 failed after 3 attempts: OSError: x")
    assert ran == [("x", 1, None), ("x", 2, {"at": 1}), ("x", 3, {"at": 2})]
    assert owner.now_ms == 1_000 + 10_000 + 20_000


async def test_short_pauses_keep_the_turn():
    @app.step(name="soon", retry=Retry(3, initial=0.01, jitter=0))
    async def soon() -> int:
        ran.append(step_info().attempt)
        if len(ran) < 3:
            raise OSError("again")
        return 7

    async def body(ctx: Context) -> int:
        return await ctx.step(soon)

    workflow = App("context").workflow(name="flow")(body)
    owner = JournalOwner()
    worker = Worker(workflow, owner, short_retry_ms=1_000)
    task = asyncio.create_task(worker.turn())
    for _ in range(200):
        await asyncio.sleep(0)
        owner.now_ms += 1
        if task.done():
            break
        await asyncio.sleep(0.001)
    await task
    assert value(owner) == 7
    assert owner.token == 1


@pytest.mark.parametrize("step", [no_key, fatal])
async def test_some_errors_are_not_worth_another_attempt(step):
    async def body(ctx: Context) -> str:
        try:
            await ctx.step(step)
        except StepFailed as error:
            return error.type
        return ""

    assert await result(body) in ("KeyError", "Fatal")
    assert len(ran) == 1


async def test_timeouts_of_attempts_and_of_heartbeats():
    @app.step(name="slow", timeout=0.02)
    async def slow() -> None:
        await asyncio.sleep(10)

    @app.step(name="silent", heartbeat_timeout=0.03, timeout=5)
    async def silent() -> None:
        for _ in range(4):
            await asyncio.sleep(0.01)
            step_info().heartbeat()
        ran.append("beat")
        await asyncio.sleep(5)

    async def body(ctx: Context) -> list[str]:
        told = []
        for step in (slow, silent):
            try:
                await ctx.step(step)
            except StepFailed as error:
                told.append(f"{error.type}: {error.message}")
        return told

    assert await result(body) == [
        "timeout: ran longer than 20 ms",
        "timeout: no heartbeat for 30 ms",
    ]
    assert ran == ["beat"]


def cpu(n: int) -> str:
    """Run in a process."""
    import os

    step_info().heartbeat(n)
    return f"{os.getpid()} {step_info().idempotency_key()}"


def cpu_fails(n: int) -> None:
    raise ValueError(f"bad {n}")


in_process = app.step(kind="process", name="cpu")(cpu)
in_process_fails = app.step(kind="process", name="cpu_fails")(cpu_fails)


async def test_steps_in_processes():
    import os

    async def body(ctx: Context) -> list[str]:
        told = [await ctx.step(in_process, 3)]
        try:
            await ctx.step(in_process_fails, 4)
        except StepFailed as error:
            told.append(f"{error.type} {error.message}")
        return told

    told = await result(body)
    assert told[0].partition(" ")[0] != str(os.getpid())
    assert told[0].partition(" ")[2] == "ns/run/cpu#1"
    assert told[1] == "ValueError bad 4"


class Base(BaseException):
    """As pytest's own, say."""


RAISED = [Base, SystemExit, asyncio.CancelledError]


def raises(kind: int) -> None:
    raise [*RAISED, KeyboardInterrupt][kind]("no")


raises_here = app.step(name="raises")(raises)
in_process_raises = app.step(kind="process", name="raises_there")(raises)


async def raises_at_once(kind: int) -> None:
    raises(kind)


@pytest.mark.parametrize(
    ("step", "kinds"),
    [
        (app.step(raises_at_once), RAISED),
        # One of the event loop's own process would end that.
        (raises_here, [*RAISED, KeyboardInterrupt]),
        (in_process_raises, [*RAISED, KeyboardInterrupt]),
    ],
    ids=["async", "thread", "process"],
)
async def test_whatever_a_step_raises_is_its_failure(step, kinds):
    async def body(ctx: Context) -> list[str]:
        told = []
        for number in range(len(kinds)):
            try:
                await ctx.step(step, number)
            except StepFailed as error:
                told.append(f"{error.type} {error.message}")
        return told

    async with asyncio.timeout(60):
        told = await result(body)
    names = ["cancelled" if kind is asyncio.CancelledError else kind.__name__ for kind in kinds]
    if step.kind != "async":
        names = [kind.__name__ for kind in kinds]
    assert told == [f"{name} no" for name in names]


async def test_an_at_most_once_step_is_claimed_first_and_unknown_after_a_loss():
    @app.step(name="pay", effect="at-most-once", retry=Retry(5))
    async def pay() -> str:
        ran.append("pay")
        return "paid"

    async def body(ctx: Context) -> str:
        try:
            return await ctx.step(pay)
        except EffectUnknown as error:
            return f"unknown: {error.type}"

    owner = JournalOwner()
    assert await result(body, owner=owner) == "paid"
    assert [type(change) for change in owner.reports[0]] == [StepClaim]

    owner = JournalOwner()
    workflow = App("context").workflow(name="flow")(body)
    worker = Worker(workflow, owner)
    ran.clear()
    # Dies with the result in its hands: whether it was paid, nobody knows.
    await worker.turn(kill_at=2)
    assert owner.journal["pay#1"].state == EntryState.CLAIMED
    await run_to_end(workflow, owner)
    assert value(owner) == "unknown: effect-unknown"
    assert ran == ["pay"]


async def test_values_of_all_kinds():
    @dataclass
    class Point:
        x: int
        when: datetime

    class Order(msgspec.Struct):
        id: str
        points: tuple[Point, ...]

    class Model(pydantic.BaseModel):
        n: int
        at: datetime

    @app.step(name="typed")
    async def typed(order: Order, model: Model) -> Model:
        assert isinstance(order, Order)
        assert isinstance(order.points[0], Point)
        return Model(n=model.n + 1, at=model.at)

    when = datetime(2026, 1, 2, tzinfo=UTC)

    async def body(ctx: Context) -> bool:
        order = Order("o", (Point(1, when),))
        model = await ctx.step(typed, order, Model(n=1, at=when))
        await ctx.sleep(1)
        again = await ctx.step(typed, order, model)
        return isinstance(model, Model) and again.n == 3 and again.at == when

    typed.signature._hints = {"order": Order, "model": Model, "return": Model}
    assert await result(body) is True


async def test_a_result_that_does_not_fit_its_type_fails_the_step():
    @app.step(name="liar")
    async def liar() -> int:
        return "text"

    async def body(ctx: Context) -> str:
        try:
            await ctx.step(liar)
        except StepFailed as error:
            return error.type
        return ""

    assert await result(body) == "invalid-result"


async def test_explicit_keys_and_keys_by_arguments():
    keyed = app.step(name="keyed", key=lambda x: f"order-{x}")(echo.function)

    async def body(ctx: Context) -> list[object]:
        return [
            await ctx.step(keyed, 5),
            await ctx.step(echo.options(key="mine"), 6),
            await ctx.step(echo, 7),
        ]

    owner = JournalOwner()
    assert await result(body, owner=owner) == [5, 6, 7]
    assert list(owner.journal) == ["order-5", "mine", "echo#1"]


async def test_one_key_twice_is_an_error():
    async def body(ctx: Context) -> None:
        await ctx.step(echo.options(key="k"), 1)
        await ctx.step(echo.options(key="k"), 2)

    owner = await ended(body)
    assert owner.end.outcome == TurnOutcome.FAILED
    assert owner.end.error.type == "duplicate-key"


async def test_a_step_called_as_a_function_is_refused_in_a_workflow():
    async def body(ctx: Context) -> None:
        await echo(1)

    owner = await ended(body)
    assert "await ctx.step(echo, …)" in owner.end.error.message
    assert await echo(3) == 3
