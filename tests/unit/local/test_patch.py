"""A live run goes on with another definition, on the embedded engine; and what is told of it."""

from __future__ import annotations

import asyncio

import pytest

from headrace.client import compare
from headrace.errors import Conflict

OLD = """
name: order
tasks:
  - {name: a, type: test/call, with: {name: a}}
  - {name: b, type: test/call, with: {name: b, hold: true}, depends_on: [a]}
  - {name: c, type: test/call, with: {name: c}, depends_on: [b]}
  - {name: gone, type: test/call, with: {name: gone}, depends_on: [c]}
"""
NEW = """
name: order
tasks:
  - {name: first, type: test/call, with: {name: first}}
  - {name: a, type: test/call, with: {name: a}}
  - {name: b, type: test/call, with: {name: b, hold: true}, depends_on: [a]}
  - {name: c, type: test/call, with: {name: "c after ${{ tasks.first.outputs.n }}"},
     depends_on: [b, first]}
"""


@pytest.fixture
def file(tmp_path):
    """Writes a definition to `order.yaml`; returns its path."""

    def write(text):
        path = tmp_path / "order.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
async def held(engine, calls, file):
    """A run whose second step is running."""
    run = await engine.submit(file(OLD))
    await calls.entered.wait()
    return run


async def test_a_patched_run_ends_as_the_new_definition_says(engine, calls, held, file):
    dry = await engine.patch(held, file(NEW), dry_run=True)
    assert (dry.added, dry.removed, dry.changed, dry.event) == (["first"], ["gone"], ["c"], 0)
    assert (await engine.get(held)).patched == []
    done = await engine.patch(held, file(NEW))
    assert (done.added, done.removed, done.changed) == (dry.added, dry.removed, dry.changed)
    assert (await engine.explain(held)).summary.endswith(f"patched at event {done.event})")
    calls.open.set()
    ended = await engine.wait(held)
    assert ended.state == "COMPLETED"
    assert calls.names == ["a", "b", "first", "c after 3"]
    assert {step.path: step.outputs for step in ended.steps} == {
        "first": {"n": 3},
        "a": {"n": 1},
        "b": {"n": 3},
        "c": {"n": 4},
    }


async def test_a_closed_run_is_told_by_both_definitions(engine, calls, held, file):
    client = engine._client
    done = await engine.patch(held, file(NEW))
    calls.open.set()
    await engine.wait(held)
    while not (await client.get(held)).archived:
        await asyncio.sleep(0)
    ended = await client.get(held)
    assert ended.patched == [done.event]
    assert all(step.started_ms and step.worker for step in ended.steps)
    before = await client.get(held, at_event=done.event - 1)
    assert [step.path for step in before.steps] == ["a", "b", "c", "gone"]
    assert (before.plan, ended.plan) == (done.previous, done.plan)
    told = [(entry.type, entry.path) for entry in await client.history(held)]
    assert {path for kind, path in told if kind == "StepCompleted"} == {"first", "a", "b", "c"}
    (entry,) = [e for e in await client.history(held) if e.type == "PlanPatched"]
    assert (entry.data["added"], entry.data["removed"]) == (["first"], ["gone"])
    with pytest.raises(Conflict, match="has ended"):
        await engine.patch(held, file(OLD))
    again = await engine.wait((await client.rerun(held, failed=True)).id)
    plans = await client.plan(held), await client.plan(again.id)
    found = compare(ended, again, plans, now_ms=0)
    assert {d.what for d in found.differences} == {"step"}
    assert {d.key for d in found.differences} == {"attempt"}


async def test_what_has_begun_is_named_with_its_place(engine, calls, held, file):
    wrong = OLD.replace("{name: b, hold", "{name: bb, hold")
    with pytest.raises(Conflict, match=r"order.yaml:5:\d+: b has begun \(DISPATCHED\).*: inputs$"):
        await engine.patch(held, file(wrong))
    calls.open.set()
    assert (await engine.wait(held)).state == "COMPLETED"
    assert "gone" in calls.names
