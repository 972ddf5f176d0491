"""Values that functions and steps emit, and who follows them."""

import asyncio

import pytest

from headrace.errors import InvalidRequest
from headrace.local import LocalEngine
from headrace.local.lines import KeptLines
from headrace.messages import LogLine, Task, subjects
from headrace.sdk import App, Context, step_info
from headrace.sdk._emit import CHARS_MAX, Joined, pieces
from headrace.worker.core import Origin

WITHIN_S = 30.0
LONG = "x" * (3 * CHARS_MAX)
ODD = "a\u2028b\u2029c\x85d\ne\x0bf"
app = App("emitting")


def spin(n: int) -> int:
    step_info().emit(["process", n])
    return n


in_process = app.step(name="in-process", kind="process")(spin)


@app.step
def in_thread(n: int) -> int:
    step_info().emit(["thread", n])
    return n


@app.step
async def tokens() -> str:
    for text in ("one", "two", LONG):
        step_info().emit(text, stream="tokens")
        await asyncio.sleep(0)
    return "whole"


@app.workflow
async def flow(ctx: Context) -> str:
    ctx.emit({"odd": ODD})
    ctx.emit("elsewhere", stream="other")
    await ctx.step(in_thread, 1)
    await ctx.step(in_process, 2)
    return await ctx.step(tokens)


async def followed(handle, name):
    return [value async for value in handle.stream(name)]


@pytest.mark.parametrize("when", ["live", "afterwards"])
async def test_streams_of_an_engine_in_this_process(when):
    async with LocalEngine() as engine, asyncio.timeout(WITHIN_S):
        handle = await engine.start(flow)
        if when == "afterwards":
            await handle.result()
        progress, told = await asyncio.gather(
            followed(handle, "progress"), followed(handle, "tokens")
        )
        assert progress == [{"odd": ODD}, ["thread", 1], ["process", 2]]
        assert told == ["one", "two", LONG]
        assert await handle.result() == "whole"


async def test_one_that_follows_hears_of_it_while_the_run_waits():
    other = App("waiting")

    @other.workflow
    async def waits(ctx: Context) -> None:
        ctx.emit("before")
        await ctx.signal("go")
        ctx.emit("after")

    async with LocalEngine() as engine, asyncio.timeout(WITHIN_S):
        handle = await engine.start(waits)
        stream = handle.stream()
        assert await anext(stream) == "before"
        await handle.signal("go")
        assert [value async for value in stream] == ["after"]


def test_a_value_of_which_a_piece_is_missing_is_left_out():
    joined = Joined("s")
    (first, *_), rest = list(pieces(LONG, "s")), list(pieces("next", "s"))
    assert list(joined.taken(*first)) == []
    assert [value for line in rest for value in joined.taken(*line)] == ["next"]
    assert list(joined.taken("emit:t", "1")) == []


def test_names_of_streams_are_plain():
    with pytest.raises(InvalidRequest, match="not a stream's name"):
        pieces(1, "a b")
    with pytest.raises(InvalidRequest, match="JSON"):
        pieces({1: object()}, "a")


def test_the_newest_lines_are_kept():
    kept = KeptLines(0, None, bytes_max=2_000)
    for number in range(50):
        run = f"default/{'ab'[number % 2]}"
        task = Task(run, 1, "f", 1, 1, "u", b"")
        kept.write(Origin(0, "default"), task, number, [LogLine(1, "stdout", "x" * 100)])
    a, b = (kept.stored(subjects.step_logs(0, f"default/{run}"), 0) for run in "ab")
    assert 5 < len(a) + len(b) < 20
    assert b[-1][0] == 50
    assert kept._bytes == sum(len(data) for _, data in a + b)
    assert kept.stored(subjects.step_logs(0, "default/b"), 49) == [b[-1]]
