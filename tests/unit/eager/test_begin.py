"""Tasks that take their first step at once: like any task, but sooner."""

import asyncio
import contextvars

import pytest

from headrace.eager import begin

LONG_S = 30.0
seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="")
told: list[str] = []


@pytest.fixture(autouse=True)
def _clean():
    told.clear()


async def note(text):
    seen.set(text)
    told.append(f"{asyncio.current_task().get_name()} {text}")


async def waits():
    told.append("waits")
    try:
        await asyncio.sleep(LONG_S)
    except asyncio.CancelledError:
        told.append("cancelled")
        raise


async def test_what_does_not_suspend_is_over_at_once_in_its_own_task_and_context():
    caller = asyncio.current_task()

    assert begin(note("a"), name="one") is None

    assert told == ["one a"]
    assert seen.get() == ""
    assert asyncio.current_task() is caller
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {caller}


async def test_what_suspends_goes_on_as_the_task_that_it_began_in():
    async def whole():
        first = asyncio.current_task()
        seen.set("mine")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(LONG_S)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        assert asyncio.current_task() is first
        assert seen.get() == "mine"
        await note("end")

    task = begin(whole(), name="two")
    assert told == []
    assert task is not None
    async with asyncio.timeout(LONG_S):
        await task
    assert told == ["two end"]
    assert seen.get() == ""


async def test_it_is_cancelled_before_its_task_has_had_its_turn():
    task = begin(waits(), name="three")
    assert task is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["waits", "cancelled"]


async def test_what_it_waits_for_is_cancelled_with_it():
    inner = asyncio.ensure_future(waits())
    await asyncio.sleep(0)

    async def outer():
        await inner

    task = begin(outer(), name="four")
    assert task is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert inner.cancelled()


async def test_it_cancels_itself():
    async def itself():
        asyncio.current_task().cancel()
        await waits()

    task = begin(itself(), name="five")
    assert task is not None
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["waits", "cancelled"]


async def test_it_is_cancelled_in_its_first_step():
    async def lets_go():
        raise asyncio.CancelledError

    task = begin(lets_go(), name="six")
    assert task is not None
    with pytest.raises(asyncio.CancelledError):
        await task
