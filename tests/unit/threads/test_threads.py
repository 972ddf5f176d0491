"""Calls in daemon threads."""

import asyncio
import contextvars
import threading

import pytest

from headrace.threads import Threads


async def test_calls_run_side_by_side() -> None:
    threads = Threads("test")
    meeting = threading.Barrier(3)
    met = await asyncio.gather(*[threads.start(lambda: meeting.wait(5)) for _ in range(3)])
    assert sorted(met) == [0, 1, 2]


async def test_one_after_the_other_they_share_a_daemon_thread() -> None:
    threads = Threads("test")
    ran = {await threads.start(threading.current_thread) for _ in range(50)}
    assert [(thread.name, thread.daemon) for thread in ran] == [("test", True)]


async def test_the_context_of_the_task_is_there() -> None:
    word = contextvars.ContextVar("word", default="")
    word.set("here")
    assert await Threads("test").start(word.get) == "here"


async def test_errors_arrive() -> None:
    threads = Threads("test")

    def fail() -> None:
        raise ValueError("x")

    def stop() -> None:
        raise StopIteration

    with pytest.raises(ValueError, match="x"):
        await threads.start(fail)
    with pytest.raises(RuntimeError, match="the function raised StopIteration"):
        await threads.start(stop)


async def test_what_a_cancelled_call_returns_changes_nothing() -> None:
    threads = Threads("test")
    go = threading.Event()
    future = threads.start(lambda: go.wait(5))
    future.cancel()
    go.set()
    assert await threads.start(lambda: "next") == "next"
    assert future.cancelled()
