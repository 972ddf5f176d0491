"""Commands: what they print where, and what they exit with."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
import yaml

from headrace.client import Client, DevServer, write_dev
from headrace.errors import Unreachable
from headrace.flowctl import _app, _cmd_cluster
from headrace.messages import HistoryEntry, LogLine, LogLines, SignalRun, StepView, SubmitRun

RUN_FIELDS = {
    "id",
    "workflow",
    "state",
    "reason",
    "created_at",
    "started_at",
    "finished_at",
    "labels",
    "input",
    "output",
    "steps",
}


def ending(cluster, state, **fields):
    cluster.after_submit = lambda run: cluster.finish(run, state, **fields)


def submitted(flowctl, workflow, *args):
    ran = flowctl("submit", workflow, "-o", "name", *args)
    assert ran.code == 0, ran.err
    return ran.out.strip()


# -- submit, get, list ---------------------------------------------------------------------------


def test_submit_prints_one_run_as_json(flowctl, cluster, workflow):
    ran = flowctl(
        *("submit", workflow, "-o", "json", "--input", "count=3", "--input", "note=hi"),
        *("--label", "team=web", "--priority", "5", "--id", "mine"),
    )
    assert ran.code == 0
    run = json.loads(ran.out)
    assert set(run) >= RUN_FIELDS
    assert (run["id"], run["workflow"], run["state"]) == ("mine", "hello", "PENDING")
    assert run["input"] == {"count": 3, "note": "hi"}
    assert (run["labels"], run["priority"]) == ({"team": "web"}, 5)
    assert run["created_at"].endswith("Z")
    assert run["finished_at"] is None


def test_submit_prints_the_id_only(flowctl, cluster, workflow):
    ran = flowctl("-o", "name", "submit", workflow)
    assert ran.out.strip() in {run.id for runs in cluster.runs.values() for run in runs.values()}


def test_inputs_come_from_a_file_and_the_command_line_goes_before(
    flowctl, cluster, workflow, tmp_path
):
    (tmp_path / "in.yaml").write_text("count: 7\nnote: from the file\n")
    (tmp_path / "note.txt").write_text("from @")
    submitted(flowctl, workflow, "--input-file", "in.yaml", "--input", "note=@note.txt")
    assert cluster.sent(SubmitRun)[-1].input == {"count": 7, "note": "from @"}
    (tmp_path / "in.json").write_text('{"count": 8}')
    submitted(flowctl, workflow, "--input-file", "in.json")
    assert cluster.sent(SubmitRun)[-1].input["count"] == 8


@pytest.mark.parametrize(
    "args",
    [
        ("--input", "count"),
        ("--input", "count=many"),
        ("--input", "cuont=1"),
        ("--input", "note=@nowhere"),
        ("--input-file", "nowhere.json"),
        ("--label", "=x"),
        ("--durability", "paper"),
        ("--id", "a.b"),
        ("--priority", "high"),
        ("--no-such-option",),
    ],
)
def test_bad_arguments_exit_3_and_send_nothing(flowctl, cluster, workflow, args):
    ran = flowctl("submit", workflow, *args)
    assert (ran.code, ran.out) == (3, "")
    assert ran.err
    assert not cluster.sent(SubmitRun)


@pytest.mark.parametrize(("state", "code"), [("COMPLETED", 0), ("FAILED", 1), ("CANCELLED", 2)])
@pytest.mark.parametrize("flag", ["--wait", "--watch"])
def test_a_followed_run_decides_the_exit_code(flowctl, cluster, workflow, state, code, flag):
    ending(cluster, state, reason="because")
    ran = flowctl("submit", workflow, flag, "-o", "json")
    assert ran.code == code
    assert json.loads(ran.out)["state"] == state
    if flag == "--watch":
        assert f"{state} in 1.0s: because" in ran.err
        assert "\x1b" not in ran.err


def test_a_handler_must_be_offered_by_some_worker(flowctl, cluster, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("jobs:\n  a:\n    runs-on: x\n    steps:\n      - uses: text/count\n")
    ran = flowctl("submit", path)
    assert ran.code == 3
    assert f"{path}:5:15: unknown handler 'text/count'" in ran.err
    assert not cluster.sent(SubmitRun)
    assert flowctl("submit", path, "--allow-unknown").code == 0
    cluster.info.workers[0].handlers.append("text/count")
    assert flowctl("submit", path, "-n", "other").code == 3
    assert flowctl("submit", path).code == 0


def test_a_refusal_of_an_unknown_kind_is_not_a_failed_run(flowctl, cluster, workflow):
    cluster.refuse_submits = ("odd", "not in this phase of the moon")
    ran = flowctl("submit", workflow)
    assert ran.code == 5
    assert "phase of the moon" in ran.err


def test_get_shows_one_run_in_every_format(flowctl, cluster, workflow):
    ending(
        cluster,
        "FAILED",
        steps=[
            StepView(
                path="a", state="FAILED", attempt=2, error="exit 1\x1b[2J\nsecond line", worker="w1"
            )
        ],
    )
    name = submitted(flowctl, workflow)
    table = flowctl("get", name)
    assert table.code == 0
    assert name in table.out
    assert "exit 1 second line" in table.out
    assert "\x1b" not in table.out
    assert "NEEDS" in flowctl("get", name, "-o", "wide").out
    as_yaml = yaml.safe_load(flowctl("get", name, "-o", "yaml").out)
    assert as_yaml == json.loads(flowctl("get", name, "-o", "json").out)
    assert as_yaml["steps"][0]["attempt"] == 2
    assert flowctl("get", name, "--watch").code == 1


def test_list_prints_an_array_and_pages(flowctl, cluster, workflow):
    names = [submitted(flowctl, workflow, "--label", f"n={n % 2}") for n in range(5)]
    ran = flowctl("list", "-o", "json", "--limit", "3")
    assert [run["id"] for run in json.loads(ran.out)] == names[:1:-1]
    # What a list does not know is not there: null would say that there is none.
    shown = json.loads(flowctl("get", names[0], "-o", "json").out)
    assert set(shown) - set(json.loads(ran.out)[0]) == {"input", "output", "as_of", "steps"}
    cursor = ran.err.split("--cursor ")[1].strip()
    rest = flowctl("list", "-o", "name", "--limit", "3", "--cursor", cursor)
    assert rest.out.split() == names[1::-1]
    assert rest.err == ""
    assert flowctl("list", "-o", "name", "--label", "n=1").out.split() == [names[3], names[1]]
    assert flowctl("list", "-o", "json", "--state", "failed").out.strip() == "[]"
    assert flowctl("list", "--since", "1h", "-o", "name").out == ""
    assert len(flowctl("list", "--since", "2020-01-01T00:00:00Z", "-o", "name").out.split()) == 5
    assert flowctl("list", "--since", "soon").code == 3
    assert flowctl("list", "--state", "odd").code == 3
    assert flowctl("list").out.startswith("ID ")


def test_history_explain_logs(flowctl, cluster, workflow):
    ending(cluster, "COMPLETED")
    name = submitted(flowctl, workflow)
    cluster.history[name] = [
        HistoryEntry(number=n, time_ms=n, type="StepCompleted", path="a", data={"n": n})
        for n in (1, 2, 3, 4)
    ]
    ran = flowctl("history", name, "-o", "json")
    assert [entry["number"] for entry in json.loads(ran.out)] == [1, 2, 3, 4]
    assert "StepCompleted" in flowctl("history", name).out
    assert "no worker offers gpu" in flowctl("explain", name).out
    said = [LogLine(1_000, "stdout", "one"), LogLine(2_000, "stderr", "two")]
    cluster.logs.append(LogLines(1, f"default/{name}", 1, "a", 1, 0, said))
    assert flowctl("logs", name).out == "a | one\na | two\n"
    assert flowctl("logs", name, "--step", "a").out == "one\ntwo\n"
    assert flowctl("logs", name, "--step", "b", "-f").out == ""
    objects = [json.loads(line) for line in flowctl("logs", name, "-o", "json").out.splitlines()]
    assert [(entry["number"], entry["stream"]) for entry in objects] == [
        (0, "stdout"),
        (1, "stderr"),
    ]


def test_changes_are_said_on_stderr(flowctl, cluster, workflow):
    name = submitted(flowctl, workflow)
    ran = flowctl("pause", name)
    assert (ran.code, ran.out, ran.err) == (0, "", f"run {name}: paused\n")
    assert json.loads(flowctl("get", name, "-o", "json").out)["conditions"] == ["PAUSED"]
    assert flowctl("resume", name).code == 0
    assert flowctl("signal", name, "ok", "--payload", '{"a": 1}').code == 0
    assert flowctl("signal", name, "ok", "--payload", "plain").code == 0
    for typo in ('{"a": 1', "{approved: true}", ' ["a"'):
        refused = flowctl("signal", name, "ok", "--payload", typo)
        assert (refused.code, "not JSON" in refused.err) == (3, True)
    assert [signal.payload for signal in cluster.sent(SignalRun)] == [{"a": 1}, "plain"]
    ran = flowctl("cancel", name, "--reason", "no", "-o", "json")
    assert json.loads(ran.out)["state"] == "CANCELLED"
    assert flowctl("cancel", name).code == 3


def test_rerun_is_a_new_run(flowctl, cluster, workflow):
    ending(cluster, "FAILED", steps=[StepView(path="a", state="COMPLETED", outputs={"x": 1})])
    name = submitted(flowctl, workflow)
    ran = flowctl("rerun", name, "--failed", "--wait", "-o", "json")
    assert ran.code == 1
    assert json.loads(ran.out)["rerun_of"] == name
    assert flowctl("rerun", "nobody").code == 4


# -- cluster -------------------------------------------------------------------------------------


def test_workers_and_drain(flowctl, cluster):
    assert json.loads(flowctl("workers", "-o", "json").out)[0]["id"] == "w1"
    assert flowctl("workers", "-n", "other", "-o", "name").out == ""
    assert "w1" in flowctl("workers", "-o", "wide").out
    assert flowctl("drain", "w1", "--grace", "5s").err == (
        "worker w1: draining, its steps have 5.0s to finish\n"
    )
    assert flowctl("drain", "w1.a").err == "worker w1: draining\n"
    ran = flowctl("drain", "w")
    assert (ran.code, ran.err) == (4, "error: no worker w is online (online: w1)\n")
    assert flowctl("drain", "w1.other").code == 4
    assert flowctl("drain", "w2").code == 4


def test_cluster_status_and_check(flowctl, cluster, monkeypatch):
    cluster.info.warnings.append("fsync is off")
    ran = flowctl("cluster", "status")
    assert "4 shards, 1 worker online" in ran.out
    assert ran.err == "warning: fsync is off\n"
    assert json.loads(flowctl("cluster", "status", "-o", "json").out)["controller"] == "c1"
    shard = cluster.info.shards[0]
    shard.standby, shard.position, shard.standby_position = "c2", 5, 5
    shard.state_hash = shard.standby_hash = "abc"
    ran = flowctl("cluster", "check", "-o", "json")
    assert ran.code == 0
    assert [entry["verdict"] for entry in json.loads(ran.out)][:2] == ["equal", "no standby"]
    shard.standby_hash = "abd"
    assert flowctl("cluster", "check").code == 1
    shard.owner = ""
    monkeypatch.setattr(_cmd_cluster, "CHECK_S", 0.0)
    assert flowctl("cluster", "check").code == 1


# -- files ---------------------------------------------------------------------------------------


def test_validate_prints_all_problems_of_all_files(flowctl, workflow, tmp_path):
    assert flowctl("validate", workflow).code == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        "name: bad\njobs:\n  a:\n    need: b\n    runs-on: linux\n    steps: [{run: x}]\n"
    )
    ran = flowctl("validate", bad, workflow, tmp_path / "nowhere.yaml")
    assert ran.code == 3
    assert f"{bad}:" in ran.err
    assert "did you mean 'needs'?" in ran.err
    assert ran.err.count("nowhere.yaml") == 1
    assert ran.out == f"{workflow}: ok\n"
    found = json.loads(flowctl("validate", bad, "-o", "json").out)
    assert found[0]["problems"][0] == {
        "file": str(bad),
        "line": 4,
        "column": 5,
        "message": "unknown key 'need' in jobs.a",
        "hint": "did you mean 'needs'?",
    }
    caller = tmp_path / "caller.yaml"
    caller.write_text("jobs: {a: {uses: ./called.yaml}}\n")
    called = tmp_path / "called.yaml"
    called.write_text("on: workflow_call\njobs:\n  a: {steps: [{rum: x}]}\n")
    (problem, *_) = json.loads(flowctl("validate", caller, "-o", "json").out)[0]["problems"]
    assert (problem["file"], problem["line"]) == (str(called), 3)
    assert flowctl("submit", bad).code == 3


def test_graph_of_a_file_and_of_a_run(flowctl, cluster, workflow):
    ran = flowctl("graph", workflow)
    assert ran.out.startswith("flowchart TD\n")
    assert "-->" in ran.out
    assert flowctl("graph", workflow, "--format", "dot").out.startswith("digraph")
    data = json.loads(flowctl("graph", workflow, "--format", "json").out)
    assert {node["name"] for node in data["nodes"]} >= {"a", "b"}
    assert yaml.safe_load(flowctl("graph", workflow, "--format", "yaml").out) == data
    ending(
        cluster, "COMPLETED", steps=[StepView(path=node, state="COMPLETED") for node in ("a", "b")]
    )
    name = submitted(flowctl, workflow)
    assert flowctl("graph", name).code == 0
    assert flowctl("graph", "nobody").code == 4


def test_init_writes_a_project_that_is_valid_and_overwrites_nothing(flowctl, tmp_path):
    assert flowctl("init", "shop").code == 0
    both = ("validate", "shop/workflow.yaml", "shop/custom.yaml")
    ran = flowctl(*both, "--handler", "text/count")
    assert ran.code == 0, ran.err
    assert flowctl(*both).code == 3
    assert flowctl(*both, "--allow-unknown").code == 0
    compile((tmp_path / "shop/handlers.py").read_text(), "handlers.py", "exec")
    (tmp_path / "shop/workflow.yaml").write_text("mine")
    ran = flowctl("init", "shop")
    assert ran.code == 3
    assert (tmp_path / "shop/workflow.yaml").read_text() == "mine"
    assert flowctl("init", "9 lives").code == 3


# -- this program --------------------------------------------------------------------------------


def test_help_is_everywhere(flowctl):
    root = flowctl("-h")
    assert root.code == 0
    own = [name for section in _app.COMMANDS.values() for name in section]
    for name in own:
        assert f"  {name} " in root.out
        ran = flowctl(name, "-h")
        assert ran.code == 0, (name, ran.err)
        assert ran.out.startswith(f"Usage: flowctl {name}")
    for path in (("cluster", "check"), ("context", "set")):
        assert flowctl(*path, "-h").code == 0
    assert flowctl().code == 0


def test_version_and_completion(flowctl):
    assert flowctl("version").out == f"flowctl {version('headrace')}\n"
    assert json.loads(flowctl("version", "-o", "json").out)["version"] == version("headrace")
    assert flowctl("--version").out == f"flowctl {version('headrace')}\n"
    for shell in ("bash", "zsh", "fish"):
        assert "_FLOWCTL_COMPLETE" in flowctl("completion", shell).out


@pytest.mark.parametrize(
    "args", [("nope",), ("get",), ("completion", "csh"), ("-o", "xml", "list")]
)
def test_usage_errors_exit_3(flowctl, args):
    ran = flowctl(*args)
    assert (ran.code, ran.out) == (3, "")
    assert "Error" in ran.err


def test_an_extra_that_is_missing_is_named(flowctl, monkeypatch):
    class Entry:
        name, value = "coordinator", "x:y"

        def load(self):
            raise ModuleNotFoundError("No module named 'pysyncobj'")

    monkeypatch.setattr(_app, "_entry_points", lambda: [Entry()])
    ran = flowctl("coordinator")
    assert ran.code == 3
    assert "pip install 'headrace[coordinator]'" in ran.err
    assert "pysyncobj" in ran.err
    assert "pip install 'headrace[dev]'" in flowctl("dev").err


def test_a_bug_is_an_internal_error_without_a_traceback(flowctl, cluster, workflow, monkeypatch):
    def broken(run):
        raise RuntimeError("oops")

    cluster.after_submit = broken
    ran = flowctl("submit", workflow)
    assert ran.code == 70
    assert "internal error: RuntimeError: oops" in ran.err
    assert "FLOWCTL_DEBUG=1" in ran.err


def test_ctrl_c_is_quiet(flowctl, cluster, workflow):
    def interrupt(run):
        raise KeyboardInterrupt

    cluster.after_submit = interrupt
    ran = flowctl("submit", workflow)
    assert ran.code == 130
    assert ran.err.strip() == ""


# -- where the cluster is ------------------------------------------------------------------------


def test_the_server_is_found_by_flag_environment_context_dev_and_default(
    flowctl, cluster, monkeypatch
):
    def reached(*args):
        cluster.connected.clear()
        assert flowctl(*args, "list").code == 0
        return cluster.connected[0]

    assert reached() == ("nats://127.0.0.1:4222", "default")
    write_dev(DevServer(server="nats://127.0.0.1:5000", dir="/x", pid=1))
    assert reached() == ("nats://127.0.0.1:5000", "default")
    assert flowctl("context", "set", "prod", "-s", "nats://prod:4222", "-n", "shop").code == 0
    assert reached() == ("nats://prod:4222", "shop")
    assert flowctl("context", "set", "test", "-s", "nats://test:4222").code == 0
    assert json.loads(flowctl("context", "list", "-o", "json").out)[0]["current"] is True
    assert reached("--context", "test") == ("nats://test:4222", "default")
    assert flowctl("context", "use", "test").code == 0
    assert reached() == ("nats://test:4222", "default")
    monkeypatch.setenv("FLOWCTL_SERVER", "nats://env:4222")
    monkeypatch.setenv("FLOWCTL_NAMESPACE", "envns")
    assert reached() == ("nats://env:4222", "envns")
    assert reached("--context", "prod") == ("nats://prod:4222", "envns")
    assert reached("-s", "nats://flag:4222", "-n", "flag") == ("nats://flag:4222", "flag")
    assert flowctl("--context", "nope", "list").code == 4
    assert flowctl("context", "use", "nope").code == 4
    assert flowctl("context", "use", "-").code == 0


def test_a_current_context_that_is_gone_is_no_guess_at_another_server(flowctl, tmp_path):
    path = tmp_path / "config/flowctl/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text('current = "prod"\n[contexts.test]\nserver = "nats://test:4222"\n')
    found = flowctl("list")
    assert found.code == 4
    assert "no context 'prod'" in found.err
    assert "(there are: test)" in found.err
    # Whoever names a server needs none.
    assert flowctl("list", "-s", "nats://127.0.0.1:1").code != 4
    assert flowctl("context", "use", "test").code == 0


def test_a_broken_configuration_is_named(flowctl, cluster, tmp_path):
    path = tmp_path / "config/flowctl/config.toml"
    path.parent.mkdir(parents=True)
    for text in ("current = ", "colour = 1\n", "[contexts.a]\nserver = 5\n", "contexts = 3\n"):
        path.write_text(text)
        ran = flowctl("list")
        assert ran.code == 3
        assert "config.toml" in ran.err


def test_nobody_there_is_exit_5_with_the_address(flowctl, monkeypatch):
    async def connect(servers, *, namespace, timeout_s, access):
        assert timeout_s < 5
        raise Unreachable("no broker")

    monkeypatch.setattr(Client, "connect", connect)
    ran = flowctl("list", "-s", "nats://127.0.0.1:9")
    assert ran.code == 5
    assert "nats://127.0.0.1:9" in ran.err


def test_no_colour_and_no_traceback_with_a_closed_pipe(workflow):
    text = "import sys; from headrace.flowctl import main; main(sys.argv[1:])"
    done = subprocess.run(
        ["/bin/sh", "-c", f'"{sys.executable}" -c "{text}" graph "{workflow}" | true'],
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.stderr == b""


def test_starting_imports_neither_the_client_nor_the_broker_library():
    text = (
        "import sys; from headrace.flowctl._app import run; run(['version']);"
        "bad = {'nats', 'asyncio', 'yaml', 'msgspec', 'headrace.client'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", text], check=True, timeout=20, capture_output=True)


def test_plan_says_what_would_run_and_who_could(flowctl, cluster, workflow):
    ran = flowctl("plan", workflow)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0].split() == ["NODE", "DOES", "RUNS", "AFTER", "NEEDS", "WHY"]
    assert "b/step-1" in ran.out
    data = json.loads(flowctl("plan", workflow, "--input", "count=2", "-o", "json").out)
    assert data["inputs"]["count"] == 2
    by_path = {node["path"]: node for node in data["nodes"]}
    assert by_path["b"]["after"] == ["a"]
    assert by_path["a/step-1"]["labels"] == ["linux"]
    assert "workers" not in by_path["a/step-1"]
    asked = json.loads(flowctl("plan", workflow, "--workers", "-o", "json").out)
    offered = {node["path"]: node.get("workers") for node in asked["nodes"]}
    assert offered["a"] is None
    assert isinstance(offered["a/step-1"], list)
    assert flowctl("plan", workflow, "--input", "count=many").code == 3
