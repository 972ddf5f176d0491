"""The engine in memory: everything that a user can do with runs, in one process."""

from __future__ import annotations

import asyncio

import pytest

from headrace.errors import Conflict, InvalidDefinition, InvalidRequest, NotFound, Unavailable
from headrace.language import HandlerSpec, compile_workflow
from headrace.local import LocalEngine, run
from headrace.worker.handlers import HandlerError, handler


def plan(text, *custom):
    specs = {name: HandlerSpec(name=name, open=True) for name in custom}
    return compile_workflow(text, file="w.yaml", handlers=specs)


HELLO = """
name: hello
on: {workflow_dispatch: {inputs: {who: {type: string, default: world}}}}
jobs:
  greet:
    runs-on: web-servers
    outputs: {said: "${{ steps.say.outputs.said }}"}
    steps:
      - id: say
        run: |
          echo "Hello ${{ inputs.who }}"
          echo "said=${{ inputs.who }}" >> "$GITHUB_OUTPUT"
      - run: test -d "$GITHUB_WORKSPACE" && echo "${{ steps.say.outputs.said }} again"
"""

HOLD = """
name: hold
tasks:
  - {name: first, type: test/hold}
  - {name: second, type: noop, depends_on: [first]}
"""

WAIT = """
name: ask
jobs:
  ask:
    runs-on: linux
    steps:
      - {id: ask, approval: {signal: yes-or-no, timeout: 1h}}
      - run: echo "by ${{ steps.ask.outputs.by }}"
"""


class Gate:
    """A handler that runs until it is let go; says how it ended."""

    def __init__(self):
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.cancelled = 0

        @handler("test/hold")
        async def hold(ctx, inputs: dict):
            self.entered.set()
            try:
                await self.open.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            return {"held": True}

        self.handler = hold


@pytest.fixture
async def gate():
    return Gate()


@pytest.fixture
async def engine(gate):
    async with LocalEngine(handlers=[gate.handler]) as made:
        yield made


async def until(engine, condition):
    """Return when *condition* holds, looked at after each tick that changed something."""
    ticked = asyncio.Event()

    def note(_):
        ticked.set()

    engine._listeners.add(note)
    async with asyncio.timeout(30):
        while not condition():
            await ticked.wait()
            ticked.clear()
    engine._listeners.discard(note)


async def within(work, s=10):
    async with asyncio.timeout(s):
        return await work


async def test_runs_a_file_with_its_input(tmp_path):
    file = tmp_path / "hello.yaml"
    file.write_text(HELLO)
    lines = []
    async with LocalEngine(on_log=lines.append) as engine:
        view = await within(engine.run(file, {"who": "Ada"}, labels={"team": "x"}))
    assert view.state == "COMPLETED"
    assert view.output == {"greet": {"said": "Ada"}}
    assert view.labels == {"team": "x"}
    assert (view.steps[0].path, view.steps[0].state) == ("greet", "COMPLETED")
    texts = [line.text for part in lines for line in part.lines]
    assert texts == ["Hello Ada", "Ada again"]
    assert lines[0].path == "greet/say"


def test_run_needs_no_loop():
    view = run(plan(HELLO))
    assert (view.state, view.output) == ("COMPLETED", {"greet": {"said": "world"}})


async def test_steps_can_be_left_out(engine):
    view = await within(engine.run(plan(HELLO), steps=False))
    assert (view.state, view.steps) == ("COMPLETED", [])


async def test_many_runs_at_once(engine):
    noop = plan("name: n\ntasks:\n  - {name: a, type: noop, config: {x: 1}}")
    views = await within(asyncio.gather(*(engine.run(noop, steps=False) for _ in range(300))))
    assert {view.state for view in views} == {"COMPLETED"}
    assert len({view.id for view in views}) == 300
    assert views[0].output == {"x": 1}


async def test_a_bad_input_is_refused_before_anything_runs(engine):
    wanted = HELLO.replace("default: world", "required: true")
    with pytest.raises(InvalidDefinition, match="who"):
        await within(engine.run(plan(wanted)))
    with pytest.raises(InvalidDefinition, match="nobody"):
        await within(engine.submit(plan(HELLO), {"nobody": 1}))
    assert (await engine.list()).runs == []


async def test_an_unknown_handler_is_refused(engine, tmp_path):
    file = tmp_path / "w.yaml"
    file.write_text("name: x\ntasks:\n  - {name: a, type: test/hld}\n")
    with pytest.raises(InvalidDefinition, match="test/hld") as caught:
        await engine.run(file)
    assert "test/hold" in str(caught.value)


async def test_retries_until_it_succeeds():
    attempts = []

    @handler("test/flaky")
    async def flaky(ctx, inputs: dict):
        attempts.append((ctx.attempt, ctx.idempotency_key))
        if ctx.attempt < 3:
            raise HandlerError("flaky", "not yet")
        return {"attempt": ctx.attempt}

    text = """
name: retry
tasks:
  - {name: a, type: test/flaky, retry: {max-attempts: 5, backoff: fixed, initial: 1ms}}
"""
    async with LocalEngine(handlers=[flaky]) as engine:
        view = await within(engine.run(plan(text, "test/flaky")))
    assert (view.state, view.output) == ("COMPLETED", {"attempt": 3})
    assert [number for number, _ in attempts] == [1, 2, 3]
    assert len({key for _, key in attempts}) == 1


async def test_an_exception_fails_the_run():
    @handler("test/broken")
    def broken(ctx, inputs: dict):
        raise ValueError("no good")

    text = "name: b\ntasks:\n  - {name: a, type: test/broken}"
    async with LocalEngine(handlers=[broken]) as engine:
        view = await within(engine.run(plan(text, "test/broken")))
    assert (view.state, view.reason) == ("FAILED", "a: ValueError: no good")


async def test_an_at_most_once_step_is_claimed_and_runs():
    ran = []

    @handler("test/pay")
    async def pay(ctx, inputs: dict):
        ran.append(ctx.attempt)
        return {}

    text = "name: p\ntasks:\n  - {name: a, type: test/pay, effect: at-most-once}"
    async with LocalEngine(handlers=[pay]) as engine:
        view = await within(engine.run(plan(text, "test/pay")))
        history = await engine.history(view.id)
    assert (view.state, ran) == ("COMPLETED", [1])
    assert "StepClaimed" in [entry.type for entry in history]


async def test_cancel_stops_what_runs(engine, gate):
    name = await engine.submit(plan(HOLD, "test/hold"))
    await within(gate.entered.wait())
    assert (await engine.get(name)).state == "RUNNING"
    assert (await engine.get(name)).steps[0].state == "RUNNING"
    await engine.cancel(name, reason="enough")
    view = await within(engine.wait(name))
    assert view.state == "CANCELLED"
    assert view.reason.startswith("enough")
    assert gate.cancelled == 1
    with pytest.raises(Conflict):
        await engine.cancel(name)


async def test_what_a_step_says_of_itself_is_shown_while_it_runs():
    said, go = asyncio.Event(), asyncio.Event()

    @handler("test/hold")
    async def hold(ctx, inputs: dict):
        ctx.heartbeat({"done": 3})
        said.set()
        await go.wait()

    async with LocalEngine(handlers=[hold]) as engine:
        name = await engine.submit(plan(HOLD, "test/hold"))
        await within(said.wait())
        steps = (await engine.get(name)).steps
        assert [(step.state, step.details) for step in steps] == [
            ("RUNNING", {"done": 3}),
            ("PENDING", None),
        ]
        go.set()
        ended = await within(engine.wait(name))
        assert [step.details for step in ended.steps] == [None, None]


async def test_pause_and_resume(engine, gate):
    name = await engine.submit(plan(HOLD, "test/hold"))
    await within(gate.entered.wait())
    await engine.pause(name, reason="lunch")
    gate.open.set()
    paused = await engine.wait(name, timeout_s=0.05)
    assert (paused.state, paused.conditions) == ("RUNNING", ["PAUSED"])
    assert "lunch" in (await engine.explain(name)).summary
    await engine.resume(name)
    assert (await within(engine.wait(name))).state == "COMPLETED"


async def test_a_signal_is_waited_for(engine):
    name = await engine.submit(plan(WAIT))
    waiting = await engine.explain(name)
    assert waiting.reasons[0].reason == "waiting for signal yes-or-no"
    await engine.signal(name, "yes-or-no", {"by": "ada"})
    view = await within(engine.wait(name))
    assert view.state == "COMPLETED"


async def test_open_and_closed_runs_are_listed(engine, gate):
    first = await within(engine.run(plan(HELLO), labels={"k": "1"}))
    second = await engine.submit(plan(HOLD, "test/hold"), labels={"k": "2"})
    page = await engine.list()
    assert [(view.id, view.state) for view in page.runs] == [
        (second, "RUNNING"),
        (first.id, "COMPLETED"),
    ]
    assert [view.id for view in (await engine.list(labels={"k": "1"})).runs] == [first.id]
    gate.open.set()
    await within(engine.wait(second))


async def test_a_closed_run_is_found_in_the_archive(engine):
    ended = await within(engine.run(plan(HELLO)))
    await until(engine, lambda: not engine.running().machine.state.runs)
    found = await engine.get(ended.id)
    assert found.archived
    assert [s.state for s in found.steps] == [s.state for s in ended.steps]
    history = await engine.history(ended.id)
    assert (history[0].type, history[-1].type) == ("RunCreated", "RunEnded")
    assert [entry.number for entry in history] == list(range(1, len(history) + 1))
    again = await engine.rerun(ended.id)
    assert (await within(engine.wait(again))).rerun_of == ended.id


async def test_an_explicit_id_is_one_run(engine):
    first = await within(engine.run(plan(HELLO), run_id="mine"))
    assert (await within(engine.run(plan(HELLO), run_id="mine"))).finished_ms == first.finished_ms
    with pytest.raises(Conflict):
        await engine.submit(plan(HELLO), {"who": "Eve"}, run_id="mine")


async def test_watch_shows_changes_and_ends(engine, gate):
    name = await engine.submit(plan(HOLD, "test/hold"))
    states = []
    async with asyncio.timeout(30):
        async for view in engine.watch(name):
            states.append(view.state)
            gate.open.set()
    assert states[0] == "RUNNING"
    assert states[-1] == "COMPLETED"


async def test_a_label_that_is_not_offered_is_explained():
    async with LocalEngine(capabilities=["linux"]) as engine:
        name = await engine.submit(plan(HELLO))
        explanation = await engine.explain(name)
        assert explanation.reasons[0].reason == (
            "no worker offers web-servers (needed: web-servers)"
        )


async def test_slots_bound_what_runs_at_once():
    running, most = 0, 0

    @handler("test/slow")
    async def slow(ctx, inputs: dict):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    text = "name: s\ntasks:\n" + "".join(
        f"  - {{name: t{n}, type: test/slow}}\n" for n in range(12)
    )
    async with LocalEngine(handlers=[slow], slots=3) as engine:
        view = await within(engine.run(plan(text, "test/slow")))
    assert (view.state, most) == ("COMPLETED", 3)


async def test_a_concurrency_key_lets_one_run_in(gate):
    text = HOLD.replace("name: hold\n", "name: hold\nconcurrency: {group: deploy}\n", 1)
    async with LocalEngine(handlers=[gate.handler]) as engine:
        first = await engine.submit(plan(text, "test/hold"))
        second = await engine.submit(plan(text, "test/hold"))
        await within(gate.entered.wait())
        assert (await engine.get(second)).state == "PENDING"
        gate.open.set()
        assert (await within(engine.wait(first))).state == "COMPLETED"
        assert (await within(engine.wait(second))).state == "COMPLETED"


async def test_unknown_runs(engine):
    with pytest.raises(NotFound):
        await engine.get("nobody")
    with pytest.raises(NotFound):
        await engine.wait("nobody")
    with pytest.raises(NotFound):
        await engine.cancel("nobody")


async def test_leaving_stops_the_steps_and_frees_who_waits(gate):
    async with LocalEngine(handlers=[gate.handler]) as engine:
        waiting = asyncio.create_task(engine.run(plan(HOLD, "test/hold")))
        await within(gate.entered.wait())
    with pytest.raises(Unavailable, match="closed"):
        await within(waiting)
    assert gate.cancelled == 1
    with pytest.raises(Unavailable):
        await engine.submit(plan(HELLO))
    await engine.close()


async def test_watching_ends_with_the_engine(gate):
    async with LocalEngine(handlers=[gate.handler]) as engine:
        name = await engine.submit(plan(HOLD, "test/hold"))
        seen = asyncio.Event()

        async def watch():
            async for _ in engine.watch(name):
                seen.set()

        watching = asyncio.create_task(watch())
        await within(seen.wait())
    with pytest.raises(Unavailable):
        await within(watching)


async def test_an_engine_that_is_not_open_says_so():
    engine = LocalEngine()
    with pytest.raises(Unavailable, match="async with"):
        await engine.run(plan(HELLO))


def test_settings_are_checked():
    with pytest.raises(InvalidRequest, match="slots"):
        LocalEngine(slots=0)
    with pytest.raises(InvalidRequest, match="namespace"):
        LocalEngine(namespace="a.b")


async def test_no_log_is_kept_in_memory():
    noop = plan("name: n\ntasks:\n  - {name: a, type: noop}")
    async with LocalEngine() as other:
        view = await within(other.run(noop))
        assert [e.type for e in await other.history(view.id)][-1] == "RunEnded"
        status = await other._storage.log.status()
        assert (status.entries, status.bytes) == (0, 0)


async def test_more_plans_than_are_kept(engine):
    plans = [plan(f"name: n{n}\ntasks:\n  - {{name: a, type: noop}}") for n in range(300)]
    for _ in range(2):
        for one in plans:
            assert (await within(engine.run(one, steps=False))).state == "COMPLETED"


async def test_the_last_snapshot_takes_no_pauses_and_nothing_is_lost(tmp_path, caplog):
    text = "name: waits\ntasks:\n  - {name: w, type: wait, config: {signal: go}}\n"
    names = [f"w{number}" for number in range(200)]
    async with LocalEngine(persistence="snapshot", path=tmp_path) as engine:
        for name in names:
            await engine.submit(plan(text), run_id=name)
        engine._storage.snapshots.pause_s = 1_000.0
    assert not caplog.records
    async with LocalEngine(persistence="snapshot", path=tmp_path) as engine:
        for name in names:
            assert (await engine.get(name)).state == "RUNNING"
