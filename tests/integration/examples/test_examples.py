"""Every file in `examples/` runs on a real `flowctl dev`, as its header says."""

import asyncio
import hashlib
import http.server
import json
import tarfile
import threading
from pathlib import Path

import pytest

from support.cluster import EXAMPLES

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture
def run(shared_dev):
    """Submit an example, wait for its end, and return the run; it must complete."""

    async def go(name, *options, code=0):
        ran = await shared_dev.flowctl(
            "submit", str(EXAMPLES / name), *options, "--wait", "-o", "json", within_s=60
        )
        assert ran.code == code, ran.err + ran.out
        return ran.json

    return go


def steps_of(run, *, kind="task"):
    return {step["path"]: step for step in run["steps"] if step["kind"] == kind}


def outputs_of(run, job):
    return run["output"][job]


def test_no_example_is_forgotten():
    """A new file in the folder needs a test here."""
    text = Path(__file__).read_text()
    files = sorted(path.name for path in EXAMPLES.iterdir() if path.suffix == ".yaml")
    assert len(files) >= 9
    assert [name for name in files if f'"{name}"' not in text] == []


def test_each_header_says_how_to_run_it():
    for path in EXAMPLES.glob("*.yaml"):
        header = [line for line in path.read_text().splitlines() if line.startswith("#")]
        assert any("flowctl submit" in line and path.name in line for line in header), path.name


async def test_all_are_valid(shared_dev):
    files = sorted(str(path) for path in EXAMPLES.glob("*.yaml"))
    ran = await shared_dev.flowctl("validate", *files, "--handler", "example/render")
    assert ran.code == 0, ran.err
    assert ran.out.count(": ok") == len(files)


async def test_hello(run):
    done = await run("hello.yaml", "--input", "who=Ada")
    assert outputs_of(done, "greet") == {"text": "Hello, Ada!"}
    assert steps_of(done)["greet/say-it"]["outputs"]["stdout"] == "Hello, Ada!\n"


async def test_control_flow(run):
    done = await run("control-flow.yaml", "--input", "size=40")
    assert outputs_of(done, "choose") == {"label": "middle"}
    assert outputs_of(done, "count") == {"rounds": "10"}
    steps = steps_of(done)
    assert steps["choose/size/case-2/middle"]["state"] == "COMPLETED"
    assert [path for path in steps if path.startswith("count/rounds[")] == [
        f"count/rounds[{index}]/add" for index in range(4)
    ]
    assert steps["report/step-1"]["state"] == "COMPLETED"
    assert "SKIPPED" in {step["state"] for step in done["steps"] if step["path"] == "clean"}


async def test_subworkflow(run, shared_dev):
    done = await run("subworkflow.yaml", "--input", "who=Ada")
    assert outputs_of(done, "main") == {"said": "Hello, Ada!"}
    steps = {step["path"]: step for step in done["steps"]}
    for path in ("main/ask", "main/later"):
        child = await shared_dev.flowctl("get", steps[path]["child"], "--watch", "-o", "json")
        assert (child.json["state"], child.json["workflow"]) == ("COMPLETED", "hello")
        assert child.json["parent"] == done["id"]


async def test_saga_booking(run):
    """A declined card undoes what was booked, the last booking first."""
    failed = await run("saga-booking.yaml", code=1)
    steps = steps_of(failed)
    assert failed["state"] == "FAILED"
    assert "pay/charge" in failed["reason"]
    undone = [
        "book/flight~compensate/step-1",
        "book/flight~compensate/step-2",
        "book/hotel~compensate",
    ]
    assert sorted(path for path in steps if "~" in path) == undone
    times = [steps[path]["started_at"] for path in undone]
    assert times == sorted(times)
    assert {steps[path]["state"] for path in undone} == {"COMPLETED"}
    done = await run("saga-booking.yaml", "--input", "card=good")
    assert [path for path in steps_of(done) if "~" in path] == []


async def test_order_processing(run, tmp_path):
    journal = tmp_path / "journal"
    done = await run(
        "order-processing.yaml", "--input", f"journal={journal}", "--input", "pause=0.05"
    )
    steps = steps_of(done)
    assert {step["state"] for step in steps.values()} == {"COMPLETED"}
    assert outputs_of(done, "pack") == {"parcel": "A-1001/P-A-1001-57"}
    assert steps["charge/pay"]["attempt"] == 2
    assert steps["announce/step-1"]["outputs"]["stdout"] == (
        "parcel A-1001/P-A-1001-57 is on its way\n"
    )
    ran = [line.split() for line in journal.read_text().splitlines()]
    expected = [(path, "1") for path in steps] + [("charge/pay", "2")]
    key = f"default/{done['id']}/"
    assert sorted((name.removeprefix(key), attempt) for name, attempt in ran) == sorted(expected)


async def test_parallel_batch(run):
    done = await run("parallel-batch.yaml")
    states = {path: step["state"] for path, step in steps_of(done).items()}
    assert states == {
        "ask/mirrors/berlin": "COMPLETED",
        "ask/mirrors/lagos": "COMPLETED",
        "ask/mirrors/lima": "COMPLETED",
        "ask/mirrors/oslo": "CANCELLED",
        "ask/mirrors/perth": "CANCELLED",
        "ask/count": "COMPLETED",
    }


class Warehouse(http.server.BaseHTTPRequestHandler):
    """Prices, stock, and a place for the report; the first look at the stock fails."""

    reports: list[object]
    stock_asked: int

    def do_GET(self):
        if self.path == "/stock":
            type(self).stock_asked += 1
            if self.stock_asked == 1:
                return self.reply(503, {"error": "come back"})
            return self.reply(200, {"bolt": 10, "nut": 4})
        assert self.path == "/prices"
        return self.reply(200, {"bolt": 3, "nut": 2})

    def do_POST(self):
        assert self.path == "/report"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.reports.append(json.loads(body))
        self.reply(201, {"ok": True})

    def reply(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def warehouse():
    Fresh = type("Fresh", (Warehouse,), {"reports": [], "stock_asked": 0})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Fresh
    server.shutdown()
    thread.join()
    server.server_close()


async def test_http_dag(run, warehouse):
    url, seen = warehouse
    done = await run("http-dag.yaml", "--input", f"url={url}")
    assert seen.reports == [{"value": 38, "articles": 2}]
    steps = steps_of(done)
    assert steps["fetch_stock"]["attempt"] == 2
    assert steps["merge"]["outputs"]["result"] == {"value": 38, "articles": 2}
    assert steps["report"]["outputs"]["status"] == 201


async def test_fan_out_over_a_thousand(run):
    done = await run("fan-out.yaml")
    steps = steps_of(done)
    assert sum(path.endswith("/double") for path in steps) == 1_000
    assert {step["state"] for step in steps.values()} == {"COMPLETED"}
    assert outputs_of(done, "doubles") == {"sum": 2 * sum(range(1_000))}


async def test_retry_until_the_flaky_command_succeeds(run, shared_dev, tmp_path):
    counter = tmp_path / "counter"
    done = await run("retry-backoff.yaml", "--input", f"counter={counter}")
    assert outputs_of(done, "flaky") == {"attempts": "3"}
    assert steps_of(done)["flaky/try"]["attempt"] == 3
    assert counter.read_text() == "attempt\n" * 3
    history = (await shared_dev.flowctl("history", done["id"], "-o", "json")).json
    failed = [entry for entry in history if entry["type"] == "StepFailed"]
    assert len(failed) == 2
    scheduled = [entry for entry in history if entry["type"] == "StepScheduled"]
    pauses = [entry["data"]["retry_ms"] - entry["data"]["ended_ms"] for entry in failed]
    # 300 and 600 ms, of which jitter takes away at most a fifth; recording takes some ms.
    assert 230 <= pauses[0] <= 400
    assert 470 <= pauses[1] <= 700
    assert [entry["data"]["attempt"] for entry in scheduled] == [1, 2, 3]


async def test_long_step_with_a_heartbeat(run, shared_dev):
    # 4 s of work under a heartbeat timeout of 2 s: only the heartbeats keep it alive.
    done = await run("long-step.yaml", "--input", "pages=20", "--input", "page-seconds=0.2")
    step = steps_of(done)["render/pages"]
    assert (step["state"], step["attempt"]) == ("COMPLETED", 1)
    assert outputs_of(done, "render") == {"pages": 20}
    logs = await shared_dev.flowctl("logs", done["id"])
    assert "render/pages | page 20 of 20" in logs.out


async def test_long_step_that_falls_silent_is_stopped(run):
    failed = await run("long-step.yaml", "--input", "pages=1", "--input", "page-seconds=60", code=1)
    step = steps_of(failed)["render/pages"]
    assert (step["state"], step["attempt"]) == ("FAILED", 2)
    assert "heartbeat" in step["error"]


async def test_long_step_refuses_bad_input_without_a_retry(run):
    failed = await run("long-step.yaml", "--input", "pages=0", code=1)
    step = steps_of(failed)["render/pages"]
    assert (step["state"], step["attempt"]) == ("FAILED", 1)
    assert step["error"] == "bad-pages: 0 pages: 1 to 100000"


async def submitted(dev, name, *options):
    ran = await dev.flowctl("submit", str(EXAMPLES / name), *options, "-o", "name")
    assert ran.code == 0, ran.err
    return ran.out.strip()


async def explained(dev, run, text):
    """Return the reason with *text*, once there is one."""
    async with asyncio.timeout(30):
        while True:
            found = (await dev.flowctl("explain", run, "-o", "json")).json
            for reason in found["reasons"]:
                if text in reason["reason"]:
                    return reason


@pytest.mark.parametrize(
    ("payload", "deployed"),
    [('{"approved": true, "by": "ada"}', "1.4.2"), ('{"approved": false, "by": "bob"}', None)],
)
async def test_approval(shared_dev, payload, deployed):
    run = await submitted(shared_dev, "approval.yaml")
    reason = await explained(shared_dev, run, "waiting for signal approval")
    assert reason["path"] == "release/ask"
    assert reason["owner"] == "person"
    assert reason["deadline"] is not None
    sent = await shared_dev.flowctl("signal", run, "approval", "--payload", payload)
    assert sent.code == 0, sent.err
    done = (await shared_dev.flowctl("get", run, "--watch", "-o", "json")).json
    assert done["state"] == "COMPLETED"
    assert outputs_of(done, "release")["by"] == json.loads(payload)["by"]
    assert outputs_of(done, "release").get("deployed") == deployed
    states = {path: step["state"] for path, step in steps_of(done).items()}
    assert states["release/deploy"] == ("COMPLETED" if deployed else "SKIPPED")
    assert states["release/leave-it"] == ("SKIPPED" if deployed else "COMPLETED")


async def test_nightly_backup(run, tmp_path):
    source, target = tmp_path / "source", tmp_path / "backups"
    (source / "inner").mkdir(parents=True)
    (source / "a.txt").write_text("one")
    (source / "inner" / "b.txt").write_text("two")
    done = await run(
        "nightly-backup.yaml", "--input", f"source={source}", "--input", f"target={target}"
    )
    archive = Path(outputs_of(done, "backup")["archive"])
    assert archive.parent == target
    assert archive.name.startswith("backup-")
    with tarfile.open(archive) as packed:
        names = {member.name for member in packed if member.isfile()}
    assert names == {"./a.txt", "./inner/b.txt"}
    manifest = json.loads((target / "manifest.json").read_text())
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert manifest == {
        "run": done["id"],
        "archive": str(archive),
        "sha256": digest,
        "files": 2,
    }
    assert (target / "latest.tar.gz").read_bytes() == archive.read_bytes()
    assert not list(target.glob("*.part"))


async def test_nightly_backup_runs_once_a_night(run, tmp_path):
    (tmp_path / "source").mkdir()
    given = ("--input", f"source={tmp_path}/source", "--input", f"target={tmp_path}/backups")
    first = await run("nightly-backup.yaml", *given, "--id", "backup-2027-01-31")
    again = await run("nightly-backup.yaml", *given, "--id", "backup-2027-01-31")
    assert again["id"] == first["id"]
    assert again["created_at"] == first["created_at"]
