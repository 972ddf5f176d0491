"""Commands that start and look at runs, over real processes."""

import asyncio
import json
import re
import signal

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

INPUTS = """\
name: inputs
on:
  workflow_dispatch:
    inputs:
      who: {type: string, default: world}
      count: {type: number, required: true}
jobs:
  main:
    runs-on: linux
    outputs:
      text: ${{ steps.say.outputs.text }}
    steps:
      - id: say
        run: echo "text=${{ inputs.who }} ${{ inputs.count }}" >> "$GITHUB_OUTPUT"
"""
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def test_submit_with_every_option(user, tmp_path):
    file = user.file(INPUTS)
    given = tmp_path / "input.yaml"
    given.write_text("who: Ada\ncount: 3\n")
    run = await user.json(
        *("submit", file, "--input-file", str(given), "--input", "count=4"),
        *("--id", "all-options", "--label", "team=web", "--label", "env=test"),
        *("--priority", "7", "--durability", "journal", "-n", "default", "--wait"),
    )
    assert run["id"] == "all-options"
    assert run["state"] == "COMPLETED"
    assert run["input"] == {"who": "Ada", "count": 4}
    assert run["output"] == {"main": {"text": "Ada 4"}}
    assert run["labels"] == {"team": "web", "env": "test"}
    assert run["priority"] == 7


async def test_json_of_a_run_has_what_is_promised(user):
    run = await user.json("submit", user.file(INPUTS), "--input", "count=1", "--wait")
    assert {
        *("id", "workflow", "state", "reason", "created_at", "started_at", "finished_at"),
        *("labels", "input", "output", "steps"),
    } <= run.keys()
    assert run["workflow"] == "inputs"
    for name in ("created_at", "started_at", "finished_at"):
        assert RFC3339.fullmatch(run[name])
    step = next(step for step in run["steps"] if step["kind"] == "task")
    assert step["path"] == "main/say"
    assert step["attempt"] == 1
    assert step["worker"].startswith("dev-0.")
    assert step["error"] is None


async def test_input_from_stdin(user):
    ran = await user.dev.flowctl(
        *("submit", user.file(INPUTS), "--input-file", "-", "--wait", "-o", "json"),
        stdin=json.dumps({"count": 9}),
    )
    assert ran.json["output"] == {"main": {"text": "world 9"}}


async def test_formats(user):
    file = user.file(INPUTS)
    run = await user.start(file, "--input", "count=1")
    await user.end(run)
    assert (await user("get", run, "-o", "name")).out == f"{run}\n"
    table = (await user("get", run)).out
    assert "COMPLETED" in table
    assert "main/say" in table
    wide = (await user("get", run, "-o", "wide")).out
    assert "NEEDS" in wide
    assert f"id: {run}\n" in (await user("get", run, "-o", "yaml")).out
    assert "\x1b[" not in table + wide


@pytest.mark.parametrize("level", ["journal", "snapshot", "memory"])
async def test_each_durability_level_runs(user, level):
    file = user.file(INPUTS)
    run = await user.json("submit", file, "-i", "count=1", "--durability", level, "--wait")
    assert run["state"] == "COMPLETED"
    again = await user.json("get", run["id"])
    assert again["output"] == {"main": {"text": "world 1"}}
    assert (await user.json("history", run["id"]))[-1]["type"] == "RunEnded"


async def test_failed_run_is_exit_1_and_says_why(user):
    file = user.shell("echo nope >&2; exit 3")
    for option in ("--wait", "--watch"):
        ran = await user("submit", file, option, "-o", "json", code=1)
        run = ran.json
        assert run["state"] == "FAILED"
        assert "main/step" in run["reason"]
        step = next(step for step in run["steps"] if step["path"] == "main/step")
        assert step["error"] == "exit-code: exit code 3: nope"
    await user("get", run["id"], code=0)
    await user("get", run["id"], "--watch", code=1)


async def test_watch_writes_plain_lines_to_a_pipe(user):
    ran = await user("submit", user.file(INPUTS), "-i", "count=1", "--watch", "-o", "json")
    assert re.search(r"^main/say COMPLETED in \d+", ran.err, re.MULTILINE)
    assert re.search(r"^run \S+ COMPLETED in ", ran.err, re.MULTILINE)
    assert "\x1b[" not in ran.err
    assert ran.json["state"] == "COMPLETED"


async def test_list_filters(user):
    good = user.file(INPUTS)
    bad = user.shell("exit 1", name="list-bad")
    slow = user.shell("sleep 300", name="list-slow")
    runs = [await user.start(good, "-i", "count=1", "-l", "set=filters") for _ in range(3)]
    failed = await user.start(bad, "-l", "set=filters")
    live = await user.start(slow, "-l", "set=filters", "-l", "x=y")
    for run in runs:
        await user.end(run)
    await user.end(failed, state="FAILED")

    async def ids(*options):
        return [run["id"] for run in await user.json("list", "-l", "set=filters", *options)]

    assert await ids() == [live, failed, *reversed(runs)]
    assert await ids("--state", "failed") == [failed]
    assert await ids("--state", "running") == [live]
    assert await ids("--state", "completed", "--state", "FAILED") == [failed, *reversed(runs)]
    assert await ids("--workflow", "list-slow") == [live]
    assert await ids("--label", "x=y") == [live]
    assert await ids("--limit", "2") == [live, failed]
    assert await ids("--since", "1h") == [live, failed, *reversed(runs)]
    assert await ids("--since", "2099-01-01T00:00:00Z") == []
    first = await user("list", "-l", "set=filters", "--limit", "2", "-o", "name")
    cursor = first.err.split("--cursor ")[1].strip()
    rest = await user("list", "-l", "set=filters", "--cursor", cursor, "-o", "name")
    assert rest.out.split() == list(reversed(runs))
    await user("cancel", live)
    await user.end(live, state="CANCELLED")


async def test_history_is_an_array_in_order(user):
    run = await user.start(user.file(INPUTS), "-i", "count=1")
    await user.end(run)
    history = await user.json("history", run)
    assert [entry["number"] for entry in history] == list(range(1, len(history) + 1))
    types = [entry["type"] for entry in history]
    assert types[0] == "RunCreated"
    assert types[-1] == "RunEnded"
    completed = next(entry for entry in history if entry["type"] == "StepCompleted")
    assert completed["path"] == "main/say"
    assert completed["data"]["attempt"] == 1
    times = [entry["time"] for entry in history]
    assert times == sorted(times)


async def test_logs(user):
    script = 'echo one; echo two >&2; printf "\\033[31mred\\033[0m\\n"'
    run = await user.start(user.shell(script))
    await user.end(run)
    plain = (await user("logs", run)).out.splitlines()
    assert plain[:1] == ["main/step | one"]
    assert "main/step | two" in plain
    only = (await user("logs", run, "--step", "step")).out.splitlines()
    assert only[0] == "one"
    lines = [json.loads(line) for line in (await user("logs", run, "-o", "json")).out.splitlines()]
    assert {(line["stream"], line["text"]) for line in lines} >= {
        ("stdout", "one"),
        ("stderr", "two"),
    }
    assert {line["attempt"] for line in lines} == {1}


async def test_logs_follow_until_the_end(user, tmp_path):
    gate = tmp_path / "gate"
    run = await user.start(
        user.shell(f"echo first; until [ -e {gate} ]; do sleep 0.05; done; echo last")
    )
    following = await user.dev.spawn("logs", run, "-f")
    try:
        assert following.stdout is not None
        first = await asyncio.wait_for(following.stdout.readline(), 30)
        assert first == b"main/step | first\n"
        gate.touch()
        out, err = await asyncio.wait_for(following.communicate(), 30)
    finally:
        if following.returncode is None:
            following.kill()
            await following.wait()
    assert (following.returncode, out.decode()) == (0, "main/step | last\n"), err


async def test_ctrl_c_on_a_watch_leaves_the_run_alone(user, tmp_path):
    gate = tmp_path / "gate"
    run = await user.start(user.shell(f"until [ -e {gate} ]; do sleep 0.05; done"))
    watching = await user.dev.spawn("get", run, "--watch")
    assert watching.stderr is not None
    await asyncio.wait_for(watching.stderr.readline(), 30)
    watching.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(watching.communicate(), 30)
    assert watching.returncode == 130
    assert b"Traceback" not in err
    gate.touch()
    await user.end(run)


# -- what is refused -------------------------------------------------------------------------------


async def test_duplicate_ids(user):
    file = user.file(INPUTS)
    first = await user.json("submit", file, "-i", "count=1", "--id", "twice", "--wait")
    same = await user.json("submit", file, "-i", "count=1", "--id", "twice")
    assert same["id"] == "twice"
    assert same["created_at"] == first["created_at"]
    assert same["state"] == "COMPLETED"
    other_input = await user("submit", file, "-i", "count=2", "--id", "twice", code=3)
    assert "twice" in other_input.err
    other_file = await user("submit", user.shell("true"), "--id", "twice", code=3)
    assert "another definition or input" in other_file.err
    live = user.shell("sleep 300")
    run = await user.json("submit", live, "--id", "twice-live")
    again = await user.json("submit", live, "--id", "twice-live")
    assert (again["id"], again["created_at"]) == (run["id"], run["created_at"])
    await user("submit", file, "-i", "count=1", "--id", "twice-live", code=3)
    await user("cancel", "twice-live")
    await user.end("twice-live", state="CANCELLED")


@pytest.mark.parametrize(
    ("text", "place", "hint"),
    [
        ("name: x\njobs:\n  a:\n    runs_on: linux\n    steps: [{run: ls}]\n", ":4:5", "runs-on"),
        ("name: x\njobs:\n  a:\n    needs: b\n    steps: [{run: ls}]\n", ":4:12", "b"),
        ("name: x\njobs:\n  a:\n    steps: [{uses: file/raed}]\n", ":4:20", "file/read"),
        ("name: x\njobs:\n  a:\n    steps: [{uses: file/read}]\n", ":4:", "path"),
        ("name: [x\n", ":2:1", ""),
        (
            "name: x\njobs:\n  a: {needs: b, steps: [{run: ls}]}\n"
            "  b: {needs: a, steps: [{run: ls}]}\n",
            ":",
            "cycle",
        ),
    ],
    ids=["key", "needs", "handler", "input", "yaml", "cycle"],
)
async def test_invalid_definitions_are_exit_3_with_their_place(user, text, place, hint):
    file = user.file(text)
    for command in ("submit", "validate"):
        ran = await user(command, file, code=3)
        assert f"workflow-1.yaml{place}" in ran.err
        assert hint in ran.err
        assert ran.out == ""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "count"),
        (("-i", "count=many"), "count"),
        (("-i", "count=1", "-i", "whom=x"), "who"),
        (("-i", "count=1", "--id", "no spaces"), "id"),
        (("-i", "count=1", "-l", "bare"), "KEY=VALUE"),
        (("-i", "count=1", "--durability", "paper"), "durability"),
        (("-i", "count=1", "-n", "a.b"), "namespace"),
    ],
)
async def test_usage_errors_are_exit_3(user, options, says):
    ran = await user("submit", user.file(INPUTS), *options, code=3)
    assert says in ran.err


async def test_missing_things_are_exit_4(user):
    for command in (
        ("get", "no-such-run"),
        ("history", "no-such-run"),
        ("explain", "no-such-run"),
        ("logs", "no-such-run"),
        ("cancel", "no-such-run"),
        ("pause", "no-such-run"),
        ("resume", "no-such-run"),
        ("signal", "no-such-run", "x"),
        ("rerun", "no-such-run"),
        ("drain", "no-such-worker"),
    ):
        ran = await user(*command, code=4)
        assert "no-such" in ran.err, command
        assert ran.out == "", command


async def test_another_namespace_sees_nothing(user):
    run = await user.start(user.shell("true"))
    await user.end(run)
    await user("get", run, "-n", "elsewhere", code=4)
    assert await user.json("list", "-n", "elsewhere") == []


async def test_large_outputs_go_to_the_object_store_by_themselves(user):
    run = await user.start(user.shell("head -c 100000 /dev/zero | tr '\\0' x"))
    await user.end(run)


async def test_large_input(user, tmp_path):
    big = tmp_path / "big.txt"
    big.write_text("x" * 300_000)
    text = (
        "name: big\non:\n  workflow_dispatch:\n    inputs:\n      data: {type: string}\n"
        "jobs:\n  main:\n    runs-on: linux\n    steps:\n      - id: count\n"
        "        uses: script\n        with:\n          input: ${{ inputs.data }}\n"
        "          code: print(len(input_data))\n"
    )
    run = await user.start(user.file(text), "-i", f"data=@{big}")
    done = await user.end(run)
    step = next(step for step in done["steps"] if step["path"] == "main/count")
    assert step["outputs"]["result"] == 300_000
