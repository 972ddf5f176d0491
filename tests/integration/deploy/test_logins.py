"""The chart's own logins on a real server: a password for each role, and roles apart."""

import json

import pytest

from headrace.bus import Credentials, JetStreamDisabled, NoResponders, connect
from support.broker import in_thread
from support.cluster import Machine, logs_shown, wait_for
from support.deploykit import chart_accounts
from support.guarded import guarded

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

HELLO = """
name: hello
jobs:
  one:
    runs-on: [linux, c++17]
    steps: [{run: echo hello}]
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Machine(tmp_path_factory.mktemp("logins"))
    store = f'jetstream {{ store_dir: "{made.folder / "js"}" }}'
    config = f"{chart_accounts()}\nsystem_account: SYS\n{store}\n"
    with logs_shown(made), guarded(made.folder, config) as address:
        made.address = address

        def add(role, *arguments):
            login = {f"HEADRACE_CFG_BROKER__{key}": value for key, value in of(role).items()}
            common = ("--server", f"nats://{address}", "--data-dir", str(made.folder / role))
            made.add(role, role, *common, "--id", role, *arguments, env=login).start()

        add("coordinator", "--shards", "1")
        add("worker", "-c", "linux", "-c", "c++17", "--namespace", "science")
        try:
            in_thread(wait_for(lambda: ready(made), within_s=40, what="the worker"))
            yield made
        finally:
            for program in made.programs.values():
                program.kill()
            made.sweep()


def of(role):
    return {"USER": role, "PASSWORD": f"{role}-secret"}


def environ(cluster, role):
    return {"FLOWCTL_SERVER": f"nats://{role}:{role}-secret@{cluster.address}"}


async def ready(cluster):
    ran = await cluster.flowctl("workers", "-o", "json", env=environ(cluster, "client"))
    return ran.code == 0 and "Online" in ran.out


async def test_a_workflow_runs(cluster):
    file = cluster.folder / "hello.yaml"
    file.write_text(HELLO)
    ran = await cluster.flowctl(
        *("submit", str(file), "-n", "science", "--wait", "-o", "json"),
        env=environ(cluster, "client"),
    )
    assert ran.code == 0, ran
    assert json.loads(ran.out)["state"] == "COMPLETED"
    status = await cluster.flowctl("cluster", "status", env=environ(cluster, "operator"))
    assert status.code == 0, status


@pytest.mark.parametrize("role", ["worker", "client"])
async def test_the_logs_are_out_of_reach(cluster, role):
    login = Credentials(user=role, password=f"{role}-secret")
    async with await connect([f"nats://{cluster.address}"], name=role, credentials=login) as bus:
        for asking in (
            bus.js.stream_info("HEADRACE_LOG_0"),
            bus.js.get_msg("HEADRACE_LOG_0", 1),
            bus.js.delete_stream("HEADRACE_TASKS"),
        ):
            with pytest.raises((NoResponders, JetStreamDisabled)):
                await asking
        if role == "worker":
            with pytest.raises(NoResponders):
                await bus.request("headrace.cmd.science.0", b"", timeout_s=2)
