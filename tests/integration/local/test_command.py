"""`flowctl run` as a process: output, exit codes, signals, and going on after a kill."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys

import pytest

pytestmark = pytest.mark.integration

HELLO = """
name: hello
on: {workflow_dispatch: {inputs: {who: {type: string, default: world}}}}
jobs:
  greet:
    runs-on: web-servers
    steps:
      - {id: say, run: 'echo "Hello ${{ inputs.who }}"'}
"""
HOLD = """
name: hold
jobs:
  a:
    runs-on: linux
    steps:
      - {id: one, run: 'echo "one $HEADRACE_ATTEMPT" >> "$OUT"'}
      - {id: two, run: 'echo "two $HEADRACE_ATTEMPT" >> "$OUT"; echo begun; COMMAND'}
"""
STUBBORN = 'trap "" TERM INT; while true; do sleep 0.05; done'


class Ran:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
async def start(tmp_path):
    """Start `flowctl run …`; whatever is left of it is killed."""
    started = []

    async def begin(*arguments, **env):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from headrace.flowctl import main; main()",
            "run",
            *map(str, arguments),
            cwd=tmp_path,
            env={**os.environ, "OUT": str(tmp_path / "out"), "NO_COLOR": "1", **env},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.returncode is None:
            process.kill()
        with contextlib.suppress(ProcessLookupError):
            await process.communicate()


async def ended(process, s=30):
    async with asyncio.timeout(s):
        out, err = await process.communicate()
    return Ran(process.returncode, out.decode(), err.decode())


async def line_with(process, text, s=20):
    """Return the first line of stderr with *text* in it."""
    async with asyncio.timeout(s):
        while line := (await process.stderr.readline()).decode():
            if text in line:
                return line
    raise AssertionError(f"no {text!r}")


def write(tmp_path, text):
    file = tmp_path / "w.yaml"
    file.write_text(text)
    return file


async def test_the_run_is_on_stdout_and_the_rest_on_stderr(start, tmp_path):
    file = write(tmp_path, HELLO)
    ran = await ended(await start(file, "--input", "who=Ada", "-l", "a=b", "-o", "json"))
    assert ran.code == 0
    run = json.loads(ran.out)
    assert (run["workflow"], run["state"], run["labels"]) == ("hello", "COMPLETED", {"a": "b"})
    assert run["input"] == {"who": "Ada"}
    assert [step["path"] for step in run["steps"]] == ["greet", "greet/say"]
    assert "greet/say | Hello Ada" in ran.err.splitlines()
    assert any(line.startswith("run ") and "COMPLETED" in line for line in ran.err.splitlines())


async def test_quiet_says_nothing(start, tmp_path):
    ran = await ended(await start(write(tmp_path, HELLO), "-q", "-o", "name"))
    assert (ran.code, ran.err) == (0, "")
    assert len(ran.out.split()) == 1


async def test_a_failed_run(start, tmp_path):
    file = write(tmp_path, HELLO.replace("echo", "false #"))
    ran = await ended(await start(file, "-o", "json"))
    assert ran.code == 1
    assert json.loads(ran.out)["state"] == "FAILED"


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        (HELLO.replace("steps:", "stpes:"), [], "did you mean 'steps'"),
        (HELLO, ["--input", "whom=x"], "did you mean 'who'"),
        (HELLO, ["-c", "linux"], "needs web-servers"),
        (HELLO, ["--persistence", "memory", "--dir", "d"], "--dir"),
        (HELLO, ["--app", "nothing:app"], "nothing:app"),
        (HELLO, ["--continue"], "--continue"),
    ],
)
async def test_what_is_refused(start, tmp_path, text, arguments, said):
    ran = await ended(await start(write(tmp_path, text), *arguments))
    assert (ran.code, ran.out) == (3, "")
    assert said in ran.err
    assert "Traceback" not in ran.err


async def test_handlers_of_an_app(start, tmp_path):
    (tmp_path / "mine.py").write_text(
        "class App:\n"
        "    async def double(ctx, inputs: dict):\n"
        "        return {'twice': 2 * inputs['x']}\n"
        "    handlers = {'my/double': double}\n"
        "app = App\n"
    )
    text = "name: d\ntasks:\n  - {name: a, type: my/double, config: {x: 21}}"
    ran = await ended(await start(write(tmp_path, text), "--app", "mine:app", "-o", "json"))
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["output"] == {"twice": 42}


async def test_a_signal_given_at_the_start(start, tmp_path):
    text = """
name: ask
jobs:
  j:
    runs-on: linux
    steps:
      - {id: ask, approval: {signal: go}}
      - {run: 'echo by ${{ steps.ask.outputs.by }}'}
"""
    ran = await ended(await start(write(tmp_path, text), "--signal", 'go={"by": "ada"}'))
    assert ran.code == 0
    assert "by ada" in ran.err


async def test_ctrl_c_cancels_and_waits(start, tmp_path):
    file = write(tmp_path, HOLD.replace("COMMAND", "sleep 60"))
    process = await start(file, "-o", "json")
    await line_with(process, "a/two | begun")
    process.send_signal(signal.SIGINT)
    ran = await ended(process)
    assert ran.code == 2
    assert json.loads(ran.out)["state"] == "CANCELLED"
    assert "cancelling" in ran.err


async def test_a_second_ctrl_c_kills(start, tmp_path):
    file = write(tmp_path, HOLD.replace("COMMAND", STUBBORN))
    process = await start(file, "-o", "json")
    await line_with(process, "a/two | begun")
    process.send_signal(signal.SIGINT)
    await line_with(process, "cancelling")
    process.send_signal(signal.SIGINT)
    ran = await ended(process, 4)
    assert ran.code == 2
    assert json.loads(ran.out)["state"] == "CANCELLED"


@pytest.mark.parametrize("again", [["--continue"], ["FILE", "--id", "mine"]])
async def test_a_killed_run_goes_on(start, tmp_path, again):
    file = write(tmp_path, HOLD.replace("COMMAND", 'test -e "$OUT.go" || sleep 60'))
    process = await start(file, "--dir", "d", "--id", "mine")
    await line_with(process, "a/two | begun")
    process.kill()
    await ended(process)
    (tmp_path / "out.go").touch()
    arguments = [str(file) if word == "FILE" else word for word in again]
    ran = await ended(await start(*arguments, "--dir", "d", "-o", "json"))
    assert ran.code == 0, ran.err
    run = json.loads(ran.out)
    assert (run["id"], run["state"]) == ("mine", "COMPLETED")
    assert (tmp_path / "out").read_text().splitlines() == ["one 1", "two 1", "two 2"]
    nothing = await ended(await start("--continue", "--dir", "d"))
    assert nothing.code == 4


async def test_a_folder_that_is_in_use(start, tmp_path):
    file = write(tmp_path, HOLD.replace("COMMAND", "sleep 60"))
    process = await start(file, "--dir", "d")
    await line_with(process, "a/two | begun")
    ran = await ended(await start(file, "--dir", "d"))
    assert ran.code == 3
    assert "another engine" in ran.err
    process.send_signal(signal.SIGTERM)
    assert (await ended(process)).code == 2


FAULTS = """
name: faults
handlers:
  look: {run: 'test -e "$OUT.paid" && echo resolution=completed >> "$GITHUB_OUTPUT"'}
jobs:
  a:
    steps:
      - {id: skipped, run: exit 1, on-failure: skip}
      - {id: pay, effect: at-most-once, on-unknown: UNKNOWN, run: 'echo pay >> "$OUT"; sleep 60'}
      - {id: last, run: 'echo last >> "$OUT"'}
  b:
    needs: a
    on-failure: abort
    steps:
      - {id: bad, run: exit 1}
  c:
    needs: a
    steps: [{id: long, sleep: 1h}]
"""


async def test_a_lost_effect_is_looked_into_by_a_handler(start, tmp_path):
    """A kill in the middle of a step that may run once; then a skip before it, an abort behind."""
    file = write(tmp_path, FAULTS.replace("UNKNOWN", "run look"))
    process = await start(file, "--dir", "d", "--id", "mine")
    out = tmp_path / "out"
    async with asyncio.timeout(30):
        while not (out.exists() and "pay" in out.read_text()):
            await asyncio.sleep(0.05)
    process.kill()
    await ended(process)
    (tmp_path / "out.paid").touch()
    ran = await ended(await start("--continue", "--dir", "d", "-o", "json"))
    assert ran.code == 1, ran.err
    run = json.loads(ran.out)
    states = {step["path"]: step["state"] for step in run["steps"]}
    assert states["a/skipped"] == "SKIPPED"
    assert (states["a/pay"], states["a/last"], states["b/bad"]) == (
        "COMPLETED",
        "COMPLETED",
        "FAILED",
    )
    assert run["reason"].startswith("b/bad: ")
    assert out.read_text().splitlines() == ["pay", "last"]


async def test_a_compensation_goes_on_after_a_kill(start, tmp_path):
    text = """
name: saga
on-failure: compensate
jobs:
  a:
    steps:
      - {id: one, run: 'echo one >> "$OUT"', compensate: {run: 'echo undo-one >> "$OUT"'}}
      - id: two
        run: 'echo two >> "$OUT"'
        compensate: {run: 'echo undo-two >> "$OUT"; echo begun; test -e "$OUT.go" || sleep 60'}
      - {id: bad, run: exit 1}
"""
    process = await start(write(tmp_path, text), "--dir", "d", "--id", "mine")
    await line_with(process, "begun")
    process.kill()
    await ended(process)
    (tmp_path / "out.go").touch()
    ran = await ended(await start("--continue", "--dir", "d", "-o", "json"))
    assert ran.code == 1, ran.err
    # The attempt that was lost with its process runs again; what was recorded does not.
    wanted = ["one", "two", "undo-two", "undo-two", "undo-one"]
    assert (tmp_path / "out").read_text().splitlines() == wanted
