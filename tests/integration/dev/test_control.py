"""Commands that change runs, and what `explain` says meanwhile."""

import asyncio
import json
import os
import time
from datetime import datetime
from pathlib import Path

import pytest

from headrace.client import Client
from support.cluster import POLL_S, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

TWO_STEPS = """\
name: two-steps
jobs:
  first:
    runs-on: linux
    outputs:
      value: ${{{{ steps.make.outputs.value }}}}
    steps:
      - id: make
        run: |
          echo ran >> {folder}/first
          until [ -e {folder}/gate ]; do sleep 0.05; done
          echo value=7 >> "$GITHUB_OUTPUT"
  second:
    runs-on: linux
    needs: first
    steps:
      - id: use
        run: |
          echo ran >> {folder}/second
          echo "got ${{{{ needs.first.outputs.value }}}}"
          test -e {folder}/fixed
"""
SIGNALS = """\
name: signals
jobs:
  main:
    runs-on: linux
    outputs:
      got: ${{ toJSON(steps.go.outputs.payload) }}
    steps:
      - id: go
        wait-for: go
      - run: "true"
"""


def alive(pid):
    """Tell whether a process lives; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


async def pids(path, count):
    """Return the process ids in a file, once there are so many."""
    await until(lambda: path.exists() and path.read_text().count("\n") >= count, within_s=15)
    return [int(line) for line in path.read_text().split()]


# -- cancel ----------------------------------------------------------------------------------------


async def test_cancel_kills_the_process_group(user, tmp_path):
    """The step's own process, its child and its grandchild die; only then it is CANCELLED."""
    file = tmp_path / "pids"
    script = (
        f"echo $$ >> {file}\n"
        f"(echo $BASHPID >> {file}; sh -c 'echo $$ >> {file}; sleep 600' & wait) &\n"
        "wait"
    )
    run = await user.start(user.shell(script))
    family = await pids(file, 3)
    assert all(alive(pid) for pid in family)
    await user("cancel", run, "--reason", "wrong input")
    done = await user.end(run, state="CANCELLED")
    assert [pid for pid in family if alive(pid)] == []
    assert "wrong input" in done["reason"]
    states = {step["path"]: step["state"] for step in done["steps"]}
    assert states["main/step"] == "CANCELLED"


async def test_cancelled_only_once_dead(user, tmp_path):
    """A step that ignores SIGTERM is still dying: the run is not CANCELLED before SIGKILL."""
    file = tmp_path / "pids"
    run = await user.start(
        user.shell(f"trap '' TERM INT\necho $$ >> {file}\nwhile :; do sleep 1; done")
    )
    (pid,) = await pids(file, 1)
    seen_alive = 0
    async with await Client.connect(user.dev.url) as client:
        await client.cancel(run)
        while (await client.get(run)).state != "CANCELLED":
            # Looked at in this order: alive after a view that was not CANCELLED yet says nothing.
            seen_alive += alive(pid)
            await asyncio.sleep(POLL_S)
    assert not alive(pid)
    assert seen_alive


async def test_cancel_of_a_waiting_run_and_twice(user):
    run = await user.start(user.file(SIGNALS))
    await user.reason(run, "waiting for signal go")
    ran = await user("cancel", run, "-o", "json")
    assert ran.json["id"] == run
    await user.end(run, state="CANCELLED")
    again = await user("cancel", run, code=None)
    assert again.code in (0, 3)
    assert (await user.json("get", run))["state"] == "CANCELLED"


# -- pause and resume ------------------------------------------------------------------------------


async def test_pause_and_resume(user, tmp_path):
    run = await user.start(user.file(TWO_STEPS.format(folder=tmp_path)))
    await until((tmp_path / "first").exists, within_s=15)
    await user("pause", run, "--reason", "lunch")
    (tmp_path / "gate").touch()
    (tmp_path / "fixed").touch()
    # The running step finishes; nothing new starts.
    await user.step(run, "first/make", "COMPLETED")
    view = await user.json("get", run)
    assert (view["state"], view["conditions"]) == ("RUNNING", ["PAUSED"])
    assert [r["id"] for r in await user.json("list", "--state", "paused")] == [run]
    reason = await user.reason(run, "paused")
    assert "lunch" in reason["reason"]
    assert reason["owner"] == "person"
    assert not (tmp_path / "second").exists()
    await user("resume", run)
    done = await user.end(run)
    assert done["conditions"] == []
    types = [entry["type"] for entry in await user.json("history", run)]
    assert types.count("RunPaused") == types.count("RunResumed") == 1


# -- rerun -----------------------------------------------------------------------------------------


async def test_rerun_failed_carries_results(user, tmp_path):
    (tmp_path / "gate").touch()
    file = user.file(TWO_STEPS.format(folder=tmp_path))
    run = await user.start(file, "-l", "a=b")
    await user.end(run, state="FAILED")
    (tmp_path / "fixed").touch()
    new = (await user("rerun", run, "--failed", "--wait", "-o", "json")).json
    assert new["id"] != run
    assert new["state"] == "COMPLETED"
    assert new["rerun_of"] == run
    assert new["labels"] == {"a": "b"}
    steps = {step["path"]: step for step in new["steps"]}
    assert steps["first/make"]["outputs"]["value"] == "7"
    assert steps["second/use"]["outputs"]["stdout"] == "got 7\n"
    assert (tmp_path / "first").read_text() == "ran\n"
    assert (tmp_path / "second").read_text() == "ran\n" * 2


async def test_rerun_from_the_start(user, tmp_path):
    for name in ("gate", "fixed"):
        (tmp_path / name).touch()
    run = await user.start(user.file(TWO_STEPS.format(folder=tmp_path)))
    await user.end(run)
    await user("rerun", run, "--id", f"{run}-again", "--wait")
    assert (tmp_path / "first").read_text() == "ran\n" * 2


async def test_rerun_of_a_live_run_is_refused(user):
    run = await user.start(user.file(SIGNALS))
    ran = await user("rerun", run, code=3)
    assert "has not ended" in ran.err
    await user("cancel", run)


# -- signals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (("--payload", '{"by": "ada"}'), {"by": "ada"}),
        (("--payload", "just text"), "just text"),
        ((), None),
    ],
)
async def test_signal(user, given, got):
    run = await user.start(user.file(SIGNALS))
    await user.reason(run, "waiting for signal go")
    view = await user.json("get", run)
    assert view["conditions"] == ["WAITING"]
    await user("signal", run, "go", *given)
    done = await user.end(run)
    assert json.loads(done["output"]["main"]["got"]) == got
    step = next(step for step in done["steps"] if step["path"] == "main/go")
    assert step["outputs"]["actor"]


async def test_early_signal_is_kept(user, tmp_path):
    text = SIGNALS.replace(
        "      - id: go",
        f"      - run: until [ -e {tmp_path}/gate ]; do sleep 0.05; done\n      - id: go",
    )
    run = await user.start(user.file(text))
    await user("signal", run, "go", "--payload", '{"n": 1}')
    await user("signal", run, "go", "--payload", '{"n": 2}')
    (tmp_path / "gate").touch()
    done = await user.end(run)
    assert json.loads(done["output"]["main"]["got"]) == {"n": 1}


async def test_signal_to_an_ended_run_is_refused(user):
    run = await user.start(user.shell("true"))
    await user.end(run)
    ran = await user("signal", run, "go", code=None)
    assert ran.code in (3, 4)
    assert ran.err


# -- explain ---------------------------------------------------------------------------------------


async def test_missing_capability_since_when(user):
    text = "name: gpu\njobs:\n  a:\n    runs-on: [linux, gpu]\n    steps: [{id: s, run: ls}]\n"
    before = time.time()
    run = await user.start(user.file(text))
    reason = await user.reason(run, "no worker offers gpu")
    assert reason["reason"] == "no worker offers gpu (needed: gpu, linux)"
    assert (reason["path"], reason["state"], reason["owner"]) == ("a/s", "READY", "operator")
    assert reason["since"] is not None
    since = datetime.fromisoformat(reason["since"]).timestamp()
    assert before - 1 <= since <= time.time() + 1
    table = (await user("explain", run)).out
    assert "no worker offers gpu" in table.splitlines()[0]
    await user("cancel", run)
    await user.end(run, state="CANCELLED")


async def test_retry_in_some_seconds(user):
    retry = "        retry: {max-attempts: 6, initial: 60s, max: 60s, jitter: 0}\n"
    run = await user.start(user.shell("exit 9", more=retry))
    reason = await user.reason(run, "retry 1 of 5 in ")
    assert "exit code 9" in reason["reason"]
    assert reason["owner"] == "timer"
    assert reason["state"] == "WAITING"
    due, since = (datetime.fromisoformat(reason[key]) for key in ("deadline", "since"))
    # Since is the time of the log, which may be a moment after the decision.
    assert 59.9 <= (due - since).total_seconds() < 61
    await user("cancel", run)
    await user.end(run, state="CANCELLED")


async def test_running_and_ended(user, tmp_path):
    run = await user.start(user.shell(f"until [ -e {tmp_path}/gate ]; do sleep 0.05; done"))
    reason = await user.reason(run, "runs on worker dev-0")
    assert reason["owner"].startswith("dev-0")
    (tmp_path / "gate").touch()
    await user.end(run)
    explained = await user.json("explain", run)
    assert explained["reasons"] == []
    assert explained["state"] == "COMPLETED"
    assert explained["summary"] == "it has ended, and waits for nothing"


async def test_concurrency_key_names_its_holder(user, tmp_path):
    text = (
        "name: deploy\nconcurrency: {group: deploy}\njobs:\n  a:\n    runs-on: linux\n"
        f"    steps:\n      - run: until [ -e {tmp_path}/gate ]; do sleep 0.05; done\n"
    )
    first = await user.start(user.file(text))
    await user.step(first, "a/step-1", "RUNNING")
    second = await user.start(user.file(text))
    reason = await user.reason(second, "waits for concurrency key deploy, held by")
    assert first in reason["reason"]
    (tmp_path / "gate").touch()
    await user.end(first)
    await user.end(second)


async def test_run_deadline(user):
    text = (
        "name: late\ntimeout-minutes: 0.01\njobs:\n  a:\n    runs-on: linux\n"
        "    steps: [{id: s, run: sleep 300}]\n"
    )
    ran = await user("submit", user.file(text), "--wait", "-o", "json", code=1)
    assert ran.json["state"] == "FAILED"
    assert "time" in ran.json["reason"]


async def test_environment_of_a_step(user):
    """Attempt, key and token reach the step; the worker's configuration does not."""
    run = await user.start(user.shell("env | grep -E '^(HEADRACE|FLOWCTL|NATS)' | sort"))
    done = await user.end(run)
    step = next(step for step in done["steps"] if step["path"] == "main/step")
    said = dict(line.split("=", 1) for line in step["outputs"]["stdout"].splitlines())
    assert said["HEADRACE_IDEMPOTENCY_KEY"] == f"default/{run}/main/step"
    assert said["HEADRACE_ATTEMPT"] == "1"
    assert int(said["HEADRACE_FENCING_TOKEN"]) > 0
    assert not [name for name in said if name.startswith("HEADRACE_CFG_")]
    assert os.path.isabs(said["HEADRACE_WORKSPACE"])
