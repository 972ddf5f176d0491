"""Looking back and starting again, on the embedded engine."""

from __future__ import annotations

import asyncio

import pytest

from headrace.errors import Conflict, InvalidRequest
from headrace.language import HandlerSpec, compile_workflow

CHAIN = """
name: chain
tasks:
  - {name: a, type: test/call, with: {name: a}}
  - {name: b, type: test/call, with: {name: b}, depends_on: [a]}
  - {name: c, type: test/call, with: {name: c, hold: true}, depends_on: [b]}
  - {name: side, type: test/call, with: {name: side}, depends_on: [a]}
"""


@pytest.fixture
async def held(engine, calls):
    """A run of the chain whose last step is running."""
    specs = {"test/call": HandlerSpec(name="test/call", open=True)}
    run = await engine.submit(compile_workflow(CHAIN, file="w.yaml", handlers=specs))
    await calls.entered.wait()
    return run


def states(view):
    return {step.path: step.state for step in view.steps}


async def test_a_run_as_it_was_while_open_and_when_closed(engine, calls, held):
    client = engine._client
    entries = await client.history(held)
    done = next(e.number for e in entries if e.type == "StepCompleted" and e.path == "a")
    while_open = await client.get(held, at_event=done)
    assert states(while_open)["a"] == "COMPLETED"
    assert states(while_open)["c"] == "PENDING"
    calls.open.set()
    ended = await engine.wait(held)
    assert (ended.state, set(states(ended).values())) == ("COMPLETED", {"COMPLETED"})
    while not (await client.get(held)).archived:
        await asyncio.sleep(0)
    closed = await client.get(held, at_event=done)
    assert closed.archived
    closed.archived = False
    assert closed == while_open
    assert (await client.get(held, at_ms=ended.finished_ms)).state == "COMPLETED"
    with pytest.raises(InvalidRequest, match="no event 999"):
        await client.get(held, at_event=999)
    with pytest.raises(InvalidRequest, match="did not exist yet"):
        await client.get(held, at_ms=1)


async def test_a_history_is_followed_to_its_end(engine, calls, held):
    client = engine._client
    followed = []
    async for entries in client.follow_history(held, after=2):
        followed += entries
        calls.open.set()
    whole = await client.history(held)
    assert followed == whole[2:]
    assert followed[-1].type == "RunEnded"
    assert [e async for e in client.follow_history(held, after=len(whole))] == []


async def test_a_rerun_from_a_step_repeats_it_and_what_comes_after(engine, calls, held):
    calls.open.set()
    await engine.wait(held)
    calls.names.clear()
    again = await engine.wait((await engine._client.rerun(held, from_step="b")).id)
    assert (again.state, again.rerun_of, calls.names) == ("COMPLETED", held, ["b", "c"])
    with pytest.raises(InvalidRequest, match="no step nowhere"):
        await engine._client.rerun(held, from_step="nowhere")


async def test_a_reset_takes_over_what_was_recorded_up_to_an_event(engine, calls, held):
    client = engine._client
    entries = await client.history(held)
    done = next(e.number for e in entries if e.type == "StepCompleted" and e.path == "a")
    with pytest.raises(Conflict, match="has not ended"):
        await client.reset(held, to_event=done)
    with pytest.raises(InvalidRequest, match="no event 999"):
        await client.reset(held, to_event=999, cancel=True)
    assert (await client.get(held)).state == "RUNNING"
    calls.names.clear()
    calls.open.set()
    fresh = await client.reset(held, to_event=done, cancel=True)
    ended = await engine.wait(fresh.id)
    assert (ended.state, ended.rerun_of) == ("COMPLETED", held)
    assert "a" not in calls.names
    assert {"b", "c"} <= set(calls.names)
