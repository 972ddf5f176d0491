"""Commands that need no cluster."""

import socket

import pytest

from headrace.bus import free_port
from support.cluster import EXAMPLES, Machine

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


async def test_init_makes_a_project_that_runs(user, machine):
    made = await machine.flowctl("init", "shop")
    assert made.code == 0, made.err
    folder = machine.folder / "shop"
    assert {path.name for path in folder.iterdir()} >= {"workflow.yaml", "README.md", "handlers.py"}
    again = await machine.flowctl("init", "shop")
    assert again.code == 3
    assert "exists" in again.err
    valid = await machine.flowctl(
        "validate", "shop/workflow.yaml", "shop/custom.yaml", "--handler", "text/count"
    )
    assert valid.code == 0, valid.err
    file = str(folder / "workflow.yaml")
    run = await user.json("submit", file, "-i", "who=Ada", "--wait")
    shout = next(step for step in run["steps"] if step["path"].startswith("shout/"))
    assert "HELLO, ADA!" in shout["outputs"]["stdout"]


@pytest.mark.parametrize(
    ("format", "has"),
    [("mermaid", "flowchart"), ("dot", "digraph"), ("json", '"nodes"'), ("yaml", "nodes:")],
)
async def test_graph_of_a_file(machine, format, has):
    file = str(EXAMPLES / "order-processing.yaml")
    drawn = await machine.flowctl("graph", file, "--format", format)
    assert drawn.code == 0, drawn.err
    assert has in drawn.out
    assert "Charge the customer" in drawn.out or "charge" in drawn.out


async def test_graph_of_a_run(user):
    run = await user.start(user.shell("true"))
    await user.end(run)
    drawn = await user("graph", run, "--format", "mermaid")
    assert "step" in drawn.out


async def test_version_and_completion_and_help(machine):
    assert (await machine.flowctl("version")).out.startswith("flowctl ")
    assert (await machine.flowctl("--version")).code == 0
    for shell in ("bash", "zsh", "fish"):
        completion = await machine.flowctl("completion", shell)
        assert completion.code == 0
        assert "flowctl" in completion.out
    shown = await machine.flowctl("--help")
    for command in ("submit", "explain", "cluster", "dev", "worker", "coordinator"):
        assert command in shown.out


async def test_unknown_command_and_option_are_exit_3(machine):
    for arguments in (("submitt",), ("list", "--stat", "failed"), ("list", "--state", "happy")):
        ran = await machine.flowctl(*arguments)
        assert ran.code == 3, arguments
        assert ran.out == ""


IMPATIENT = {"FLOWCTL_TIMEOUT": "400ms"}
"""How long it waits by itself: tests/integration/flowctl."""


@pytest.mark.parametrize("command", [("list",), ("submit", "hello.yaml")])
async def test_unreachable_broker_is_exit_5(machine, command):
    (machine.folder / "hello.yaml").write_text((EXAMPLES / "hello.yaml").read_text())
    address = f"nats://127.0.0.1:{free_port()}"
    ran = await machine.flowctl(*command, "--server", address, env=IMPATIENT)
    assert ran.code == 5
    assert address in ran.err
    assert "Traceback" not in ran.err


async def test_silent_address_is_exit_5(machine):
    """Somebody listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        server = f"nats://127.0.0.1:{port}"
        ran = await machine.flowctl("list", "--server", server, env=IMPATIENT)
        assert ran.code == 5
        assert str(port) in ran.err


async def test_contexts(user, machine):
    env = {"FLOWCTL_SERVER": ""}
    url = user.dev.url
    assert (await machine.flowctl("context", "set", "here", "--server", url, env=env)).code == 0
    ran = await machine.flowctl("list", "--context", "here", "-o", "json", env=env)
    assert ran.code == 0, ran.err
    missing = await machine.flowctl("list", "--context", "there", env=env)
    assert missing.code == 4


@pytest.mark.parametrize("role", ["coordinator", "worker"])
@pytest.mark.parametrize(
    ("text", "env", "says"),
    [
        ("[broker]\nserver = 'x'\n", {}, "server"),
        ("[brokre]\n", {}, "brokre"),
        ("", {"HEADRACE_CFG_BROKER__SERVER": "x"}, "HEADRACE_CFG_BROKER__SERVER"),
        ("", {"HEADRACE_CFG_DISPATCH__LEASE_MS": "soon"}, "LEASE_MS"),
        ("[dispatch]\nlease_ms = 1000\nheartbeat_ms = 900\n", {}, "heartbeat_ms"),
    ],
)
async def test_server_processes_refuse_bad_configuration(machine, role, text, env, says):
    file = machine.folder / "headrace.toml"
    file.write_text(text)
    ran = await machine.flowctl(role, "--config", str(file), env=env)
    assert ran.code == 3, ran.err
    assert says.lower() in ran.err.lower()
    assert "Traceback" not in ran.err


async def test_other_variables_of_the_prefix_are_let_through(machine):
    """Kubernetes sets HEADRACE_… names of its own: only HEADRACE_CFG_ is strict."""
    file = machine.folder / "headrace.toml"
    file.write_text("[broker]\nbroken = 1\n")
    ran = await machine.flowctl(
        "worker", "--config", str(file), env={"HEADRACE_SERVICE_PORT": "tcp://10.0.0.1:80"}
    )
    assert ran.code == 3
    assert "SERVICE_PORT" not in ran.err
