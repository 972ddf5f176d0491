"""`flowctl lint` and `flowctl replay`."""

import json

import msgspec
import pytest
from click.testing import CliRunner

from headrace.errors import InvalidRequest, NotFound
from headrace.flowctl._app import cli
from headrace.local import LocalEngine
from headrace.sdk import App, Context, check_history, lint_source

WRONG = """
import asyncio, os, random as chance, time
from datetime import datetime
from uuid import uuid4
from headrace.sdk import App, Context

app = App("lint")

@app.step
async def fine() -> float:
    return time.time()

@app.workflow
async def wrong(ctx: Context, open_at: str) -> None:
    began = time.time()
    when = datetime.now()
    await asyncio.sleep(1)
    x = chance.random()
    key = uuid4()
    name = os.environ["HOME"]
    with open("f") as f:
        print(f)

    def inner() -> None:
        time.sleep(1)

@app.workflow(name="right")
async def right(ctx: Context, time: float, open: str) -> None:
    print_it = open
    await ctx.sleep(time)
    ctx.random().random()
    when = datetime(2026, 1, 1)
    if isinstance(when, asyncio.CancelledError):
        raise asyncio.CancelledError
"""


def test_what_does_not_come_out_the_same_is_found_with_its_line():
    found = lint_source(WRONG, "wrong.py")
    assert [(p.line, p.message.split()[3].rstrip(":")) for p in found] == [
        (15, "time.time"),
        (16, "datetime.datetime.now"),
        (17, "asyncio.sleep"),
        (18, "random.random"),
        (19, "uuid.uuid4"),
        (20, "os.environ"),
        (21, "open"),
        (22, "print"),
        (25, "time.sleep"),
    ]
    assert found[2].render("wrong.py") == (
        "wrong.py:17:11: workflow wrong uses asyncio.sleep: it does not come out the same again\n"
        "        await asyncio.sleep(1)\n"
        "              ^\n"
        "    write await ctx.sleep(…) instead"
    )


def test_the_command_tells_by_its_exit_code(tmp_path):
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "right.py").write_text("x = 1\n")
    runner = CliRunner()
    told = runner.invoke(cli, ["lint", str(tmp_path), "-o", "json"], standalone_mode=False)
    assert told.return_value == 1
    assert len(json.loads(told.output)) == 9
    told = runner.invoke(cli, ["lint", str(tmp_path / "right.py")], standalone_mode=False)
    assert told.return_value == 0
    with pytest.raises(NotFound):
        runner.invoke(cli, ["lint", "/nowhere"], standalone_mode=False, catch_exceptions=False)


@pytest.mark.parametrize(
    ("name", "found"), [("shop", 9), ("shop.flows", 9), ("shop.fine", 0), ("alone", 9)]
)
def test_modules_and_packages_are_found_by_name_and_not_imported(
    tmp_path, monkeypatch, name, found
):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "shop").mkdir(parents=True)
    (elsewhere / "shop" / "__init__.py").write_text("raise SystemExit('imported')\n")
    (elsewhere / "shop" / "flows.py").write_text(WRONG)
    (elsewhere / "shop" / "fine.py").write_text("x = 1\n")
    (elsewhere / "alone.py").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(elsewhere))
    told = CliRunner().invoke(cli, ["lint", name, "-o", "json"], standalone_mode=False)
    assert len(json.loads(told.output)) == found
    with pytest.raises(NotFound):
        CliRunner().invoke(
            cli, ["lint", f"{name}.nowhere"], standalone_mode=False, catch_exceptions=False
        )


def flow(second):
    app = App("replayed")

    @app.step
    async def add(n: int) -> int:
        return n + 1

    @app.workflow
    async def adding(ctx: Context, n: int) -> int:
        n = await ctx.step(add, n)
        await ctx.sleep(0.01)
        return await ctx.step(add, n if second is None else second)

    return app, adding


async def recorded():
    _, adding = flow(None)
    async with LocalEngine() as engine:
        handle = await engine.start(adding, 1)
        assert await handle.result() == 3
        return [msgspec.to_builtins(event) for event in await handle.history()]


async def test_a_history_is_replayed_with_the_code_of_today(tmp_path, monkeypatch):
    events = json.loads(json.dumps(await recorded()))
    same = check_history(flow(None)[0], events)
    assert (same.workflow, same.entries, same.conflict) == ("replayed@1/adding", 3, "")
    other = check_history(flow(99)[0], events)
    assert "add#2: its inputs differ" in other.conflict
    with pytest.raises(NotFound, match="no workflow 'adding'"):
        check_history(App("empty"), events)
    with pytest.raises(InvalidRequest):
        check_history(flow(None)[0], events[1:])

    (tmp_path / "history.json").write_text(json.dumps(events))
    (tmp_path / "replayed_app.py").write_text(
        "from headrace.sdk import App, Context\n"
        "app = App('replayed')\n"
        "@app.step\n"
        "async def add(n: int) -> int:\n    return n\n"
        "@app.workflow\n"
        "async def adding(ctx: Context, n: int) -> int:\n"
        "    return await ctx.step(add, n + 5)\n"
    )
    monkeypatch.chdir(tmp_path)
    command = ["replay", "replayed_app:app", "--history", "history.json"]
    told = CliRunner().invoke(cli, command, standalone_mode=False)
    assert told.return_value == 1, told.output
    assert "add#1: its inputs differ" in told.output
