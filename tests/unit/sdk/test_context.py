"""What a Context offers, on an owner in memory."""

import asyncio
from datetime import datetime

import msgspec
import pytest

from headrace.errors import InvalidDefinition, InvalidRequest
from headrace.messages import EntryState, TurnOutcome
from headrace.sdk import (
    App,
    ChildFailed,
    Context,
    JoinFailed,
    SignalTimeout,
    StepFailed,
    days,
)
from support.flows import echo, ended, fatal, no_key, ran, result, value
from support.journal_owner import JournalOwner
from support.turns import Worker, run_to_end

app = App("context", version="2.1")


# -- several ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("join", "expected"),
    [("any", 1), (2, 2), ("50%", 2), ("all", "OSError")],
)
async def test_joins(join, expected):
    @app.step(name=f"some{join}".replace("%", ""))
    async def some(n: int) -> int:
        if n == 0:
            raise OSError("zero")
        return n

    async def body(ctx: Context) -> object:
        try:
            return len(await ctx.map(some, [0, 1, 2, 3], join=join, max_parallel=1))
        except StepFailed as error:
            return error.type

    assert await result(body) == expected


async def test_a_join_that_cannot_succeed_says_so():
    async def body(ctx: Context) -> str:
        try:
            await ctx.parallel([ctx.step(fatal), ctx.step(echo, 1)], join=2)
        except (JoinFailed, StepFailed) as error:
            return type(error).__name__
        return ""

    assert await result(body) == "StepFailed"

    async def three(ctx: Context) -> str:
        try:
            await ctx.parallel([ctx.step(fatal), ctx.step(no_key), ctx.step(echo, 1)], join=2)
        except JoinFailed as error:
            return f"{len(error.errors)} of {error.total}"
        return ""

    assert await result(three) == "2 of 3"


async def test_losers_are_dropped_and_clean_up():
    async def branch(ctx: Context, name: str, seconds: int) -> str:
        try:
            await ctx.sleep(seconds)
            return name
        except asyncio.CancelledError:
            await ctx.step(echo, f"clean {name}")
            raise

    async def body(ctx: Context) -> list[str]:
        return await ctx.parallel([branch(ctx, "slow", 100), branch(ctx, "quick", 1)], join="any")

    owner = JournalOwner()
    assert await result(body, owner=owner) == ["quick"]
    assert ran == ["clean slow"]
    assert owner.journal["parallel#1/0/sleep#1"].state == EntryState.CANCELLED
    assert "parallel#1/0/echo#1" in owner.journal


async def test_without_a_list_the_results_are_a_tuple_as_their_type_says():
    async def body(ctx: Context) -> list[object]:
        one = await ctx.parallel(ctx.step(echo, "a"))
        two = await ctx.parallel(ctx.step(echo, "b"), ctx.step(echo, "c"))
        assert isinstance(one, tuple)
        assert isinstance(two, tuple)
        return [one, two]

    assert await result(body) == [["a"], ["b", "c"]]


async def test_a_thousand_items_three_at_a_time():
    running = most = 0

    @app.step(name="item")
    async def item(n: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return n

    async def body(ctx: Context) -> int:
        return sum(await ctx.map(item, range(1_000), max_parallel=3))

    assert await result(body) == sum(range(1_000))
    assert most == 3


# -- waiting ------------------------------------------------------------------------------------


async def test_signals_in_time_and_too_late():
    class Approval(msgspec.Struct):
        ok: bool

    async def body(ctx: Context) -> list[object]:
        first = await ctx.signal("go", Approval, timeout=days(3))
        second = await ctx.signal("go", Approval, timeout=days(3), default=Approval(False))
        try:
            await ctx.signal("go", timeout=days(1))
        except SignalTimeout as error:
            return [first.ok, second.ok, error.type]
        return []

    owner = JournalOwner()
    owner.signal("go", {"ok": True})
    assert await result(body, owner=owner) == [True, False, "timeout"]
    assert owner.now_ms == 1_000 + 4 * 86_400_000


async def test_conditions_over_signals():
    async def body(ctx: Context) -> list[str]:
        voters: list[str] = []
        ctx.on_signal("vote", voters.append, str)
        done = await ctx.wait_until(lambda: len(voters) >= 2, timeout=days(1))
        again = await ctx.wait_until(lambda: len(voters) >= 5, timeout=days(1))
        return [*voters, str(done), str(again)]

    owner = JournalOwner()
    workflow = App("context").workflow(name="flow")(body)
    await Worker(workflow, owner).turn()
    owner.signal("vote", "a")
    owner.signal("vote", "b")
    await run_to_end(workflow, owner)
    assert value(owner) == ["a", "b", "True", "False"]


async def test_queries_and_validated_updates():
    async def body(ctx: Context) -> int:
        total = 0

        async def add(n: int) -> int:
            nonlocal total
            total += await ctx.step(echo, n)
            return total

        def positive(n: int) -> None:
            if n <= 0:
                raise ValueError("not positive")

        ctx.query("total", lambda: total)
        ctx.query("times", lambda n: total * n)
        ctx.update("add", add, validate=positive)
        await ctx.wait_until(lambda: total > 9)
        return total

    owner = JournalOwner()
    workflow = App("context").workflow(name="flow")(body)
    worker = Worker(workflow, owner)
    await worker.turn()
    owner.update("u1", "add", 4)
    owner.update("u2", "add", -1)
    owner.update("u3", "sub", 1)
    owner.query("q1", "total")
    await worker.turn()
    assert msgspec.msgpack.decode(owner.journal["u1"].value) == 4
    assert owner.journal["u2"].error.message == "not positive"
    assert owner.journal["u3"].error.type == "no-such-update"
    assert "there are: add" in owner.journal["u3"].error.message
    owner.query("q2", "times", 3)
    owner.query("q3", "nothing")
    await worker.turn()
    assert msgspec.msgpack.decode(owner.answers["q2"].value) == 12
    assert owner.answers["q3"].error.type == "no-such-query"
    owner.update("u4", "add", 6)
    await run_to_end(workflow, owner)
    assert value(owner) == 10
    assert ran.count(4) == 1


async def test_time_and_chance_are_the_same_in_each_replay():
    seen = []

    async def body(ctx: Context) -> str:
        seen.append((ctx.now(), ctx.uuid(), ctx.random().random()))
        await ctx.sleep(60)
        return ctx.now().isoformat()

    assert await result(body) == "1970-01-01T00:01:01+00:00"
    assert len(seen) == 2
    assert seen[0] == seen[1]


# -- ends ---------------------------------------------------------------------------------------


async def test_what_was_done_is_undone_in_reverse():
    async def body(ctx: Context) -> None:
        for name in ("flight", "hotel"):
            await ctx.step(echo, name)
            ctx.compensate(echo, f"undo {name}")
        await ctx.sleep(5)
        await ctx.step(fatal)

    owner = await ended(body)
    assert owner.end.outcome == TurnOutcome.FAILED
    assert owner.end.error.type == "Fatal"
    assert ran == ["flight", "hotel", "fatal", "undo hotel", "undo flight"]
    assert "compensate:echo#2" in owner.journal


async def test_a_cancel_is_a_cancelled_error_and_what_follows_is_durable():
    async def body(ctx: Context) -> None:
        ctx.compensate(echo, "undo")
        try:
            await ctx.sleep(days(9))
        except asyncio.CancelledError:
            await ctx.step(echo, "cleaning")
            raise

    owner = JournalOwner()
    workflow = App("context").workflow(name="flow")(body)
    await Worker(workflow, owner).turn()
    owner.cancel()
    await run_to_end(workflow, owner)
    assert owner.end.outcome == TurnOutcome.CANCELLED
    assert ran == ["cleaning", "undo"]
    assert owner.journal["sleep#1"].state == EntryState.CANCELLED


async def test_a_cancel_stops_steps_that_run():
    started, stopped = asyncio.Event(), asyncio.Event()

    @app.step(name="endless")
    async def endless() -> None:
        started.set()
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            stopped.set()
            raise

    async def body(ctx: Context) -> None:
        await ctx.step(endless)

    owner = JournalOwner()
    worker = Worker(App("context").workflow(name="flow")(body), owner)
    task = asyncio.create_task(worker.turn())
    await started.wait()
    owner.cancel()
    worker.run.wake()
    end = await task
    assert end.outcome == TurnOutcome.CANCELLED
    assert stopped.is_set()


async def test_it_continues_as_new():
    @app.workflow
    async def count(ctx: Context, n: int, seen: list[str]) -> list[str]:
        seen = [*seen, f"{ctx.uuid()}"]
        await ctx.sleep(10)
        if n < 2:
            ctx.continue_as_new(count, n + 1, seen)
        return seen

    owner = JournalOwner({"n": 0, "seen": []})
    await run_to_end(count, owner)
    assert len(set(value(owner))) == 3
    assert owner.generation == 2
    assert list(owner.journal) == ["begun#0", "sleep#1"]


async def test_children_and_handlers_are_runs_of_their_own():
    @app.workflow(name="inner")
    async def inner(ctx: Context, n: int) -> int:
        return n

    async def body(ctx: Context) -> list[object]:
        told: list[object] = [await ctx.child(inner, 3)]
        told.append(await ctx.call("linux", "shell", {"command": "echo ${{ 1 }}"}))
        try:
            await ctx.child(inner, 4)
        except ChildFailed as error:
            told.append(error.message)
        told.append(await ctx.start_child(inner, 5))
        with pytest.raises(InvalidDefinition):
            await ctx.run_plan("jobs: 3")
        return told

    owner = JournalOwner()
    workflow = App("context").workflow(name="flow")(body)
    await run_to_end(workflow, owner)
    assert owner.children["child:inner#1"].name == "inner"
    owner.end_child("child:inner#1", {"result": 3})
    await run_to_end(workflow, owner)
    call = owner.children["call:shell#1"]
    assert b"echo" not in call.plan, "what users give is input, and no part of the plan"
    owner.end_child("call:shell#1", {"stdout": "x"})
    await run_to_end(workflow, owner)
    owner.end_child("child:inner#2", error="boom")
    await run_to_end(workflow, owner)
    told = value(owner)
    assert told[:3] == [3, {"stdout": "x"}, "boom"]
    assert told[3] == owner.children["child:inner#3"].id


async def test_waiting_for_what_is_not_of_the_context_blocks():
    async def body(ctx: Context) -> None:
        await asyncio.sleep(1)

    owner = await ended(body)
    assert owner.end is None
    message = owner.blocked.error.message
    assert f"{__file__}:" in message
    assert "ctx.sleep" in message

    async def task(ctx: Context) -> None:
        await asyncio.gather(asyncio.sleep(0))

    owner = await ended(task)
    assert "ctx.parallel" in owner.blocked.error.message


async def test_the_log_is_silent_while_it_is_replayed():
    async def body(ctx: Context) -> None:
        ctx.log.info("begun %s", 1)
        await ctx.step(echo, 1)
        ctx.log.info("went on")
        ctx.emit({"done": 1})
        await ctx.sleep(10)
        ctx.set_label("phase", "two")
        ctx.log.info("woke")

    workflow = App("context").workflow(name="flow")(body)
    owner = JournalOwner()
    worker = Worker(workflow, owner)
    await worker.turn()
    owner.advance(10_000)
    await worker.turn()
    assert worker.lines == [
        ("stdout", "begun 1"),
        ("stdout", "went on"),
        ("emit:progress", '{"done":1}'),
        ("stdout", "woke"),
    ]
    assert owner.labels == {"phase": "two"}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda ctx: ctx.sleep(-1),
        lambda ctx: ctx.signal("bad name"),
        lambda ctx: ctx.parallel([3]),
        lambda ctx: ctx.parallel([], join="most"),
        lambda ctx: ctx.step(len, 3),
        lambda ctx: ctx.sleep_until(datetime(2026, 1, 1)),  # noqa: DTZ001
        lambda ctx: ctx.map(echo, [1], max_parallel=0),
    ],
)
async def test_what_cannot_mean_anything_is_refused(wrong):
    async def body(ctx: Context) -> str:
        try:
            wrong(ctx)
        except InvalidRequest:
            return "refused"
        return "taken"

    assert await result(body) == "refused"
