"""What survives: a folder opened again after an orderly end, and after kill -9."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from headrace.language import compile_workflow
from headrace.local import LocalEngine
from support import local_child
from support.local_child import handlers, plan

pytestmark = pytest.mark.integration

AT_MOST_ONCE = ", effect: at-most-once"


async def within(work, s=20):
    async with asyncio.timeout(s):
        return await work


async def killed_in_the_second_step(folder, file, *, effect=""):
    """Run the child until its second step runs, then kill it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        local_child.__file__,
        str(folder),
        "journal",
        str(file),
        effect,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert await within(process.stdout.readline()) == b"ready\n"
    finally:
        process.kill()
        await within(process.wait())
        # Only its end tells the transport that the pipe is closed.
        await process.stdout.read()


async def test_a_killed_process_goes_on_where_its_journal_ends(tmp_path):
    file = tmp_path / "ran"
    await killed_in_the_second_step(tmp_path / "d", file)
    async with LocalEngine(
        persistence="journal", path=tmp_path / "d", handlers=handlers(file)
    ) as engine:
        view = await within(engine.wait("crash"))
        history = await engine.history("crash")
    assert view.state == "COMPLETED"
    # The recorded step is not run again; the one in flight is, under its next attempt.
    assert file.read_text().splitlines() == ["one 1", "two 1", "two 2", "three 1"]
    lost = [entry for entry in history if entry.type == "StepLost"]
    assert [(entry.path, entry.data["attempt"]) for entry in lost] == [("two", 1)]


async def test_an_at_most_once_step_in_flight_is_not_run_again(tmp_path):
    file = tmp_path / "ran"
    await killed_in_the_second_step(tmp_path / "d", file, effect=AT_MOST_ONCE)
    async with LocalEngine(
        persistence="journal", path=tmp_path / "d", handlers=handlers(file)
    ) as engine:
        view = await within(engine.wait("crash"))
    assert view.state == "FAILED"
    assert [step.state for step in view.steps] == ["COMPLETED", "UNKNOWN", "SKIPPED"]
    assert file.read_text().splitlines() == ["one 1", "two 1"]


@pytest.mark.parametrize("level", ["journal", "snapshot"])
async def test_leaving_in_the_middle_is_no_failure(tmp_path, level):
    file = tmp_path / "ran"
    entered = asyncio.Event()
    held = handlers(file, entered.set)
    async with LocalEngine(persistence=level, path=tmp_path / "d", handlers=held) as engine:
        await engine.submit(plan(), run_id="crash")
        await within(entered.wait())
    async with LocalEngine(
        persistence=level, path=tmp_path / "d", handlers=handlers(file)
    ) as engine:
        view = await within(engine.wait("crash"))
        assert (await engine.list()).runs[0].id == "crash"
    assert view.state == "COMPLETED"
    assert file.read_text().splitlines() == ["one 1", "two 1", "two 2", "three 1"]


async def test_closed_runs_are_there_next_time(tmp_path):
    noop = compile_workflow("name: n\ntasks:\n  - {name: a, type: noop, config: {x: 1}}")
    async with LocalEngine(persistence="journal", path=tmp_path) as engine:
        await within(engine.run(noop, run_id="first"))
    async with LocalEngine(persistence="journal", path=tmp_path) as engine:
        view = await within(engine.wait("first"))
        assert (view.state, view.output) == ("COMPLETED", {"x": 1})
        again = await within(engine.run(noop, run_id="first"))
        assert again.finished_ms == view.finished_ms


async def test_signals_and_pauses_last(tmp_path):
    text = """
name: ask
jobs:
  ask:
    runs-on: linux
    steps:
      - {id: one, approval: {signal: one}}
      - {id: two, approval: {signal: two}}
      - run: echo "${{ steps.two.outputs.who }}"
"""
    async with LocalEngine(persistence="journal", path=tmp_path) as engine:
        name = await engine.submit(compile_workflow(text))
        await engine.signal(name, "two", {"who": "early"})
        await engine.pause(name, reason="for the night")
    async with LocalEngine(persistence="journal", path=tmp_path) as engine:
        view = await engine.get(name)
        assert set(view.conditions) == {"PAUSED", "WAITING"}
        await engine.signal(name, "one")
        await engine.resume(name)
        view = await within(engine.wait(name))
    assert view.state == "COMPLETED"
    assert view.steps[-1].outputs["stdout"] == "early\n"


async def test_a_job_finds_its_workspace_again(tmp_path):
    text = """
name: files
jobs:
  j:
    runs-on: linux
    steps:
      - run: echo kept > kept.txt
      - {id: ask, approval: {signal: go}}
      - run: cat kept.txt
"""
    async with LocalEngine(persistence="journal", path=tmp_path) as engine:
        name = await engine.submit(compile_workflow(text))
        async with asyncio.timeout(30):
            async for view in engine.watch(name):
                if any(step.state == "WAITING" for step in view.steps):
                    break
    async with LocalEngine(persistence="journal", path=tmp_path) as engine:
        await engine.signal(name, "go")
        view = await within(engine.wait(name))
    assert view.state == "COMPLETED"
    assert view.steps[-1].outputs["stdout"] == "kept\n"


async def test_a_long_journal_is_snapshot_on_leaving(tmp_path, monkeypatch):
    monkeypatch.setattr("headrace.local.engine.LOG_ENTRIES", 2)
    noop = compile_workflow("name: n\ntasks:\n  - {name: a, type: noop}")
    for number in range(3):
        async with LocalEngine(persistence="journal", path=tmp_path) as engine:
            await within(engine.run(noop, run_id=f"r{number}"))
    async with LocalEngine(persistence="journal", path=tmp_path) as engine:
        state = engine.running().machine.state
        status = await engine._storage.log.status()
        assert len(state.snapshots) == 2
        assert status.first > state.snapshots[0][0]
        assert (await engine.get("r0")).state == "COMPLETED"
    assert not Path(tmp_path / "snapshot.db").exists()
