"""`flowctl dev` as a process: what it starts, how it ends, and what it continues."""

import asyncio
import json
import os
import re
import signal
import socket
import time
from collections import Counter

import pytest

from support.broker import eventually
from support.cluster import EXAMPLES, Dev, http_get, lent, running, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROLES = {"nats-server", "coordinator", "worker"}
ORDER = str(EXAMPLES / "order-processing.yaml")


@pytest.fixture
async def dev(tmp_path):
    """One `dev` for one test, to harm."""
    async with running(Dev(tmp_path)) as made:
        yield made


async def submit(dev, *options):
    ran = await dev.flowctl("submit", *options, "-o", "name")
    assert ran.code == 0, ran.err
    return ran.out.strip()


async def ended(dev, run, *, within_s=60):
    ran = await dev.flowctl("get", run, "--watch", "-o", "json", within_s=within_s)
    return ran.json


async def lines(path, count):
    """Wait until a file has so many lines."""
    await until(
        lambda: path.exists() and path.read_text().count("\n") >= count,
        within_s=30,
        what=f"{count} lines in {path.name}",
    )


async def test_ctrl_c_ends_every_process_and_keeps_the_data(dev):
    roles = dev.roles()
    assert roles.keys() == ROLES
    run = await submit(dev, str(EXAMPLES / "hello.yaml"))
    await ended(dev, run)
    begun = time.monotonic()
    dev.program.send(signal.SIGINT)
    assert await dev.program.ended(within_s=10) == 0
    assert time.monotonic() - begun < 8
    assert dev.marked() == {}
    data = {path.name for path in (dev.folder / "data").iterdir()}
    assert {"nats", "archive.db"} <= data
    await dev.start()
    again = await ended(dev, run)
    assert again["state"] == "COMPLETED"
    history = (await dev.flowctl("history", run, "-o", "json")).json
    assert history[-1]["type"] == "RunEnded"


async def test_ctrl_c_in_the_middle_of_a_step(dev, tmp_path):
    """The step is killed, the run lives on, and `dev` again ends it."""
    file = tmp_path / "long.yaml"
    file.write_text(
        "name: long\njobs:\n  main:\n    runs-on: linux\n    steps:\n"
        f"      - run: |\n          echo ran >> {tmp_path}/ran\n"
        f"          until [ -e {tmp_path}/gate ]; do sleep 0.05; done\n"
    )
    run = await submit(dev, str(file))
    await lines(tmp_path / "ran", 1)
    begun = time.monotonic()
    dev.program.send(signal.SIGINT)
    assert await dev.program.ended(within_s=30) == 0
    # "Within seconds", whatever the steps do.
    assert time.monotonic() - begun < 15
    assert dev.marked() == {}
    (tmp_path / "gate").touch()
    await dev.start()
    done = await ended(dev, run)
    assert done["state"] == "COMPLETED"


async def test_waiting_run_continues(dev):
    """A run that waits for a person, and one that sleeps, live through a stop."""
    run = await submit(dev, str(EXAMPLES / "approval.yaml"))

    async def waits():
        found = (await dev.flowctl("explain", run, "-o", "json")).json
        return any("waiting for signal" in reason["reason"] for reason in found["reasons"])

    async with asyncio.timeout(30):
        while not await waits():
            pass
    await dev.program.stop()
    await dev.start()
    assert await waits()
    sent = await dev.flowctl("signal", run, "approval", "--payload", '{"approved": true}')
    assert sent.code == 0, sent.err
    assert (await ended(dev, run))["state"] == "COMPLETED"


@pytest.mark.chaos
@pytest.mark.parametrize("at", [1, 3, 5])
async def test_kill_of_every_process_in_the_middle(dev, tmp_path, at):
    """The job of the first page: submit, kill -9 everything, `flowctl dev` again, COMPLETED."""
    journal = tmp_path / "journal"
    run = await submit(dev, ORDER, "-i", f"journal={journal}", "-i", "pause=0.3")
    await lines(journal, at)
    roles = dev.roles()
    assert roles.keys() == ROLES
    dev.program.send(signal.SIGKILL)
    for pid in roles.values():
        os.kill(pid, signal.SIGKILL)
    await dev.program.ended()
    await until(lambda: not dev.roles(), within_s=5, what="the processes to be gone")
    await dev.start()
    done = await ended(dev, run)
    assert done["state"] == "COMPLETED", done
    assert done["output"]["pack"] == {"parcel": "A-1001/P-A-1001-57"}
    await nothing_recorded_ran_again(dev, run, journal)
    check = await dev.flowctl("cluster", "check")
    assert check.code == 0, check.out


@pytest.mark.chaos
@pytest.mark.parametrize("role", ["worker", "coordinator", "nats-server"])
async def test_a_killed_process_is_started_again(dev, tmp_path, role):
    journal = tmp_path / "journal"
    run = await submit(dev, ORDER, "-i", f"journal={journal}", "-i", "pause=0.3")
    await lines(journal, 2)
    pid = dev.roles()[role]
    os.kill(pid, signal.SIGKILL)
    await until(lambda: dev.roles().get(role, pid) != pid, within_s=20, what=f"another {role}")
    done = await ended(dev, run)
    assert done["state"] == "COMPLETED"
    history = await nothing_recorded_ran_again(dev, run, journal)
    if role != "worker":
        # No worker was lost, so nothing ran twice: only the declined payment has two attempts.
        ran = Counter(
            line.split()[0].partition("/")[2] for line in journal.read_text().splitlines()
        )
        twice = {key for key, count in ran.items() if count > 1}
        assert twice <= {f"{run}/charge/pay"}, history


async def nothing_recorded_ran_again(dev, run, journal):
    """Compare what ran (key and attempt, as the steps noted them) with the history."""
    history = (await dev.flowctl("history", run, "-o", "json")).json
    ran = Counter(tuple(line.rsplit(" ", 1)) for line in journal.read_text().splitlines())
    assert [pair for pair, count in ran.items() if count > 1] == []
    prefix = f"default/{run}/"
    restarted = [entry["path"] for entry in history if entry["type"] == "JobRestarted"]
    completed: dict[str, int] = {}
    lost = set()
    for entry in history:
        path, attempt = entry["path"], entry["data"].get("attempt")
        if entry["type"] == "StepCompleted":
            job = path.split("/")[0]
            # A job whose worker is lost with its folder begins anew, and the history says so.
            assert path not in completed or job in restarted
            completed[path] = attempt
        elif entry["type"] in ("StepLost", "StepFailed"):
            lost.add((path, attempt))
    for (key, attempt), _ in ran.items():
        path = key.removeprefix(prefix)
        job = path.split("/")[0]
        known = completed[path] == int(attempt) or (path, int(attempt)) in lost
        assert known or job in restarted, (path, attempt, history)
    return history


async def test_found_without_an_address(dev):
    ran = await dev.flowctl("list", "-o", "json")
    assert (ran.code, ran.json) == (0, [])
    notes = dev.folder / "state" / "headrace" / "dev"
    (note,) = notes.iterdir()
    assert json.loads(note.read_text())["server"] == dev.url
    await dev.program.stop()
    assert not list(notes.iterdir())


async def test_second_dev_on_the_same_folder_is_refused(dev):
    ports = (dev.folder / "data" / "ports.json").read_bytes()
    other = dev.add(
        "second", "dev", "--dir", str(dev.folder / "data"), "--metrics-port", str(dev.metrics + 50)
    )
    other.start()
    assert await other.ended(within_s=20) not in (0, None)
    assert "Traceback" not in other.said()
    assert f"process {dev.program.pid}, {dev.url}" in other.said()
    assert "--dir" in other.said()
    # The next life of the first one is where clients look for it.
    assert (dev.folder / "data" / "ports.json").read_bytes() == ports
    assert dev.program.running
    assert (await dev.flowctl("list")).code == 0


async def test_taken_port_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        async with lent(Dev(tmp_path)) as made:
            made.program.arguments += ["--port", port]
            made.program.start()
            assert await made.program.ended(within_s=15) == 5
            assert port in made.program.said()


@pytest.mark.parametrize("once", [False, True])
async def test_what_can_never_start_ends_dev(tmp_path, once):
    """A wrong setting is said once, and is not tried again for ever."""
    options = ("--run", str(EXAMPLES / "hello.yaml")) if once else ()
    other = Dev(tmp_path / "other", "--app", "no_such_module:app", *options)
    async with lent(other):
        other.program.start()
        assert await other.program.ended(within_s=30) == 3
        said = other.program.said()
        assert said.count("no_such_module:app") == 1
        assert "worker dev-0 refuses to start" in said
        assert other.marked() == {}


async def test_two_devs_side_by_side_take_free_ports(dev, tmp_path):
    """Without ports of its own, the second one takes what is free."""
    other = Dev(tmp_path / "other")
    del other.program.arguments[3:]
    async with lent(other):
        other.program.start()
        await until(lambda: "metrics:" in other.program.said(), within_s=20)
        url = re.search(r"nats://[\d.:]+", other.program.said())
        assert url is not None
        other.port = int(url.group().rpartition(":")[2])
        await other.ready()
        ran = await other.flowctl("submit", str(EXAMPLES / "hello.yaml"), "--wait")
        assert ran.code == 0, ran.err
        assert (await dev.flowctl("list", "-o", "json")).json == []


async def test_a_metrics_port_that_was_taken_meanwhile_stops_nobody(tmp_path):
    """Somebody else takes the worker's port while it is dead: it comes back on another one."""
    other = Dev(tmp_path / "other")
    del other.program.arguments[-2:]
    async with running(other):
        with socket.socket() as thief:
            url = re.search(r"metrics: http://127.0.0.1:(\d+)/", other.program.said())
            assert url is not None
            pid = other.roles()["worker"]
            os.kill(pid, signal.SIGKILL)
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            await until(lambda: bound(thief, int(url.group(1)) + 1), within_s=5)
            thief.listen()
            await until(
                lambda: re.search(r"worker dev-0: port \d+ is taken", other.program.said()),
                within_s=20,
            )
            ran = await other.flowctl("submit", str(EXAMPLES / "hello.yaml"), "--wait")
            assert ran.code == 0, ran.err


def bound(thief, port):
    try:
        thief.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def attempts_completed(port):
    status, text = http_get(port, "/metrics")
    assert status == 200
    completed = re.search(
        r'^headrace_worker_attempts_ended_total\{outcome="completed"\} (\d+)', text, re.MULTILINE
    )
    return float(completed.group(1)) if completed else 0


async def test_health_readiness_and_metrics(dev):
    run = await submit(dev, str(EXAMPLES / "hello.yaml"))
    await ended(dev, run)
    coordinator, worker = dev.metrics, dev.metrics + 1
    for port in (coordinator, worker):
        assert http_get(port, "/healthz")[0] == 200
        status, body = http_get(port, "/readyz")
        assert status == 200, body
        assert http_get(port, "/nothing")[0] == 404
    status, text = http_get(coordinator, "/metrics")
    assert status == 200
    assert re.search(r"^headrace_\w*runs\w*(\{[^}]*\})? [1-9]", text, re.MULTILINE), text
    # A worker's figures are brought up to date with its heartbeats.
    await eventually(lambda: attempts_completed(worker) == 2, within_s=10, step_s=0.2)
