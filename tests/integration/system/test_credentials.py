"""A whole cluster over TLS, with a login for each process, and what those logins cannot do."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from headrace.bus import (
    Bus,
    ConsumerConfig,
    Credentials,
    JetStreamDisabled,
    NoResponders,
    SharedObjects,
    connect,
)
from headrace.client import Client
from headrace.errors import HeadraceError
from headrace.messages import (
    AddChunk,
    ClientBatch,
    GetLines,
    GetObject,
    ListRuns,
    NameObject,
    ReplyBatch,
    StoreReply,
    StoreRequest,
    TouchObject,
    decode,
    encode,
    nuid_of,
    subjects,
)
from support.broker import in_thread
from support.cluster import Machine, logs_shown, wait_for
from support.guarded import certificates, guarded, tls

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("system"),
]

BIG = """
on: {workflow_dispatch: {inputs: {text: {type: string}}}}
jobs:
  one:
    runs-on: linux
    outputs: {size: "${{ steps.count.outputs.size }}", big: "${{ steps.count.outputs.big }}"}
    steps:
      - id: count
        run: |
          echo "size=${#TEXT}" >> "$GITHUB_OUTPUT"
          echo counted
          head -c 100000 /dev/zero | tr '\\0' x > big.txt
          echo "big=$(cat big.txt)" >> "$GITHUB_OUTPUT"
        env: {TEXT: "${{ inputs.text }}"}
      - uses: artifact/upload
        with: {name: report, path: big.txt}
"""


TEXT_BYTES = 120_000


class Guarded(Machine):
    """A broker, a coordinator and workers of two namespaces; see `logins`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.logins = folder / "logins"
        self.made = certificates(folder / "certificates")
        self.server = ""

    def add_role(self, role: str, name: str, *arguments: str) -> None:
        env = {
            "HEADRACE_CFG_BROKER__NKEY_FILE": str(self.logins / f"{role}-{name}.nk"),
            "HEADRACE_CFG_BROKER__TLS_CA_FILE": str(self.made.ca),
        }
        program = "worker" if role == "pool" else role
        common = ("--server", self.server, "--data-dir", str(self.folder / name), "--id", name)
        self.add(name, program, *common, *arguments, env=env).start()

    def access(self, login: str) -> dict[str, str]:
        return {
            "nkey_file": str(self.logins / f"{login}.nk"),
            "tls_ca_file": str(self.made.ca),
        }

    def environ(self, login: str) -> dict[str, str]:
        found = {f"FLOWCTL_{key.upper()}": value for key, value in self.access(login).items()}
        return found | {"FLOWCTL_SERVER": self.server}

    async def reload(self) -> None:
        """Let the server read its configuration again.

        Twice: what a new account imports is known to it after the second time (2.15.1).
        """
        for _ in range(2):
            before = self.reloads()
            os.kill(int((self.folder / "nats.pid").read_text()), signal.SIGHUP)
            await wait_for(partial(self.reloaded, before), within_s=10, what="the server to reload")

    async def reloaded(self, before: int) -> bool:
        return self.reloads() > before

    def reloads(self) -> int:
        return (self.folder / "guarded.log").read_text().count("Reloaded server configuration")

    async def ready(self, *, workers: int = 3) -> None:
        async def works() -> bool:
            try:
                async with await Client.connect(
                    self.server, timeout_s=1.0, access=self.access("operator-me")
                ) as client:
                    info = await client.info(workers=True)
            except HeadraceError:
                return False
            served = bool(info.shards) and all(shard.epoch for shard in info.shards)
            return served and sum(w.state == "Online" for w in info.workers) == workers

        await wait_for(works, within_s=40, what="all workers")

    @asynccontextmanager
    async def bus(self, login: str) -> AsyncIterator[Bus]:
        access = Credentials(nkey_file=str(self.logins / f"{login}.nk"), ca_file=str(self.made.ca))
        async with await connect(self.server, name=login, credentials=access) as bus:
            yield bus


MAKE = (
    ("--coordinator", "c0", "--operator", "me"),
    ("--worker", "w0", "-n", "default", "-c", "linux"),
    ("--worker", "other", "-n", "science", "-c", "linux"),
    ("--pool", "many", "-n", "science", "-c", "gpu"),
    ("--client", "ci", "-n", "default"),
    ("--client", "lab", "-n", "science"),
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    made = Guarded(tmp_path_factory.mktemp("guarded"))

    async def prepare() -> None:
        for arguments in MAKE:
            ran = await made.flowctl(
                "cluster", "credentials", "--dir", str(made.logins), *arguments
            )
            assert ran.code == 0, ran

    in_thread(prepare())
    config = tls(made.made) + 'include "logins/accounts.conf"\n'
    config += f'pid_file: "{made.folder / "nats.pid"}"\n'
    config += f'jetstream {{ store_dir: "{made.folder / "nats"}" }}\n'
    with logs_shown(made), guarded(made.folder, config) as address:
        made.server = f"tls://{address}"
        made.add_role("coordinator", "c0", "--shards", "2")
        made.add_role("worker", "w0", "-c", "linux")
        made.add_role("worker", "other", "-c", "linux", "--namespace", "science")
        made.add_role("pool", "many", "-c", "gpu", "--namespace", "science")
        try:
            in_thread(made.ready())
            yield made
        finally:
            for program in made.programs.values():
                program.kill()
            made.sweep()


async def submitted(cluster: Guarded, folder: Path, login: str, *options: str) -> dict[str, Any]:
    """Run `BIG` with a large input to its end; return the run."""
    file, inputs = folder / "big.yaml", folder / "input.json"
    file.write_text(BIG)
    inputs.write_text(json.dumps({"text": "y" * TEXT_BYTES}))
    ran = await cluster.flowctl(
        *("submit", str(file), "--input-file", str(inputs), "--wait", "-o", "json", *options),
        env=cluster.environ(login),
    )
    assert ran.code == 0, ran
    run: dict[str, Any] = json.loads(ran.out)
    assert run["state"] == "COMPLETED", run
    return run


async def test_a_cluster_works_with_these_logins(cluster, tmp_path):
    env = cluster.environ("client-ci")
    run = await submitted(cluster, tmp_path, "client-ci")
    # Input and output are large values: by the coordinator's hand, there and back.
    output = run["output"]["one"]
    assert output["size"] == str(TEXT_BYTES)
    async with cluster.bus("client-ci") as bus:
        big = await SharedObjects(bus, subjects.BLOB_BUCKET).get(output["big"]["$blob"]["ref"])
    assert b"x" * 100_000 in big
    assert "counted" in (await cluster.flowctl("logs", run["id"], env=env)).out
    assert run["id"] in (await cluster.flowctl("list", "-o", "name", env=env)).out
    packed = tmp_path / "packed"
    ran = await cluster.flowctl("artifacts", run["id"], "--download", str(packed), env=env)
    assert ran.code == 0, ran
    assert (packed / "report" / "big.txt").read_text() == "x" * 100_000
    status = await cluster.flowctl("cluster", "status", env=cluster.environ("operator-me"))
    assert status.code == 0, status
    assert "eof_received" not in status.err


class Spy:
    """Hears everything in the coordinators' account."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.heard: list[tuple[str, bytes]] = []
        bus.subscribe(">", lambda message: self.heard.append((message.subject, message.data)))

    async def until(self, data: bytes) -> None:
        """Return when *data* was heard: what one connection sent before it was heard, too."""

        async def found() -> bool:
            return any(said == data for _, said in self.heard)

        await wait_for(found, within_s=10, what=repr(data))

    def subjects_of(self, data: bytes) -> set[str]:
        return {subject for subject, said in self.heard if data in said}


@asynccontextmanager
async def spying(cluster: Guarded, login: str) -> AsyncIterator[tuple[Spy, Bus]]:
    async with cluster.bus("operator-me") as inside, cluster.bus(login) as outside:
        spy = Spy(inside)
        await inside.flush()
        yield spy, outside


LINUX, GPU = subjects.labels_of(["linux"]), subjects.labels_of(["gpu"])
LANE = subjects.lane_of("default", ["linux"])


@pytest.mark.parametrize(
    ("login", "allowed"),
    [
        ("worker-w0", f"headrace.hb.worker.default.{LINUX}.w0"),
        ("client-ci", "headrace.cmd.default.0"),
        ("pool-many", f"headrace.hb.worker.science.{GPU}.any-id"),
    ],
)
async def test_nothing_is_said_under_another_name(cluster, login, allowed):
    forbidden = [
        "headrace.log.0",
        "headrace.log.0.epoch",
        "headrace.raft.c0",
        "headrace.backup",
        "headrace.peer.0",
        "headrace.hb.coordinator.c1",
        f"headrace.task.default.{LANE}.0",
        "headrace.task.default.@w0-x.0",
        "headrace.events.0",
        subjects.result("default", 0, "other"),
        subjects.result("science", 0, "w0"),
        subjects.worker_heartbeat("default", "other", ["linux"]),
        subjects.worker_heartbeat("default", "w0", ["gpu"]),
        subjects.worker_heartbeat("science", "w0", ["linux"]),
        subjects.worker_heartbeat("science", "any-id", ["linux"]),
        subjects.worker_orders("default", "other", "x", ["linux"]),
        subjects.command("science" if "ci" in login else "default", 1),
        subjects.archive("other"),
        subjects.store("other"),
        subjects.step_logs(0, "other/run"),
        subjects.incoming("science" if "ci" in login else "default", "order"),
        "$JS.API.STREAM.PURGE.HEADRACE_LOG_0",
        "$JS.API.STREAM.DELETE.HEADRACE_TASKS",
        "$JS.API.CONSUMER.NAMES.HEADRACE_TASKS",
        "$O.headrace-blobs.M.x",
    ]
    async with spying(cluster, login) as (spy, outside):
        if login == "pool-many":
            forbidden.remove(subjects.result("science", 0, "w0"))  # any id may answer
        for subject in forbidden:
            outside.publish(subject, b"forged")
        outside.publish(allowed, b"forged last")
        await spy.until(b"forged last")
        assert spy.subjects_of(b"forged") == {allowed}


TARGETS = ("headrace.log.0", f"headrace.task.default.{LANE}.0", "headrace.cmd.default.0")


async def test_no_answer_goes_where_the_asker_may_not_speak(cluster):
    """JetStream answers to whatever subject it is told; in one account that could be the log's."""
    async with spying(cluster, "worker-w0") as (spy, outside):
        before = (await spy.bus.js.stream_info("HEADRACE_LOG_0")).state
        line = subjects.step_logs(0, "default/some-run")
        for target in TARGETS:
            outside.publish(line, b"planted", reply=target)
            outside.publish("$JS.API.DIRECT.GET.HEADRACE_LOGS", b'{"seq":1}', reply=target)
            outside.publish("$JS.API.CONSUMER.MSG.NEXT.HEADRACE_TASKS.x", b"planted", reply=target)
            outside.publish(
                subjects.store("default"),
                encode(GetLines(1, line)),
                reply=target,
            )
        answer = await outside.request(
            subjects.store("default"), encode(GetLines(1, line)), timeout_s=5
        )
        assert b"planted" in answer.data, "what it may read, it reads"
        assert not spy.subjects_of(b"planted") & set(TARGETS)
        after = (await spy.bus.js.stream_info("HEADRACE_LOG_0")).state
        entries, _ = await spy.bus.js.read("HEADRACE_LOG_0", before.last_seq + 1)
        assert [stored for stored in entries if b"planted" in stored.data] == []
        # The owner is not fenced by a stray message, and goes on in the same epoch.
        assert after.last_seq - before.last_seq == len(entries)


@pytest.mark.parametrize("login", ["worker-w0", "pool-many", "client-ci"])
async def test_no_stream_is_read(cluster, login):
    async with cluster.bus(login) as bus:
        for stream in ("HEADRACE_LOG_0", "HEADRACE_TASKS", "HEADRACE_LOGS", "OBJ_headrace-blobs"):
            for asking in (
                bus.js.stream_info(stream),
                bus.js.get_msg(stream, 1),
                bus.js.read(stream, 1, timeout_s=2),
                bus.js.ensure_consumer(stream, ConsumerConfig(durable_name="mine")),
                bus.js.purge(stream, subject=">"),
                bus.js.delete_stream(stream),
            ):
                with pytest.raises((NoResponders, JetStreamDisabled)):
                    await asking


async def test_nothing_of_others_is_heard(cluster, tmp_path):
    heard: list[str] = []
    async with cluster.bus("worker-other") as bus, cluster.bus("client-lab") as client:
        for connection in (bus, client):
            connection.subscribe(">", lambda message: heard.append(message.subject))
            await connection.flush()
        await submitted(cluster, tmp_path, "client-ci")
        bus.publish("own.word", b"")
        await bus.flush()
    assert "own.word" in heard, "it does listen"
    secret = ("log", "events", "task", "raft", "peer", "cmd", "result", "logs")
    foreign = [s for s in heard if "default" in s.split(".") or s.split(".")[1] in secret]
    assert foreign == []


async def test_a_lane_is_found_by_its_name_only(cluster, tmp_path):
    """A worker may pull from any consumer whose name it knows: names of others cannot be known."""
    await submitted(cluster, tmp_path, "client-ci")
    guess = subjects.task_consumer("default", LANE)
    async with cluster.bus("operator-me") as inside:
        names = (await inside.js.api("CONSUMER.NAMES.HEADRACE_TASKS", {}, dict))["consumers"]
    real = [name for name in names if name.startswith(guess)]
    assert len(real) == 1
    assert len(real[0]) >= len(guess) + 24, "no name without its secret part"
    async with cluster.bus("worker-other") as bus:
        with pytest.raises(NoResponders):
            await bus.request(
                f"$JS.API.CONSUMER.MSG.NEXT.HEADRACE_TASKS.{guess}",
                b'{"batch":1,"no_wait":true}',
                timeout_s=2,
            )


async def store(bus: Bus, namespace: str, request: StoreRequest) -> StoreReply:
    answer = await bus.request(subjects.store(namespace), encode(request), timeout_s=5)
    return decode(StoreReply, answer.data)


async def test_values_and_lines_of_another_namespace_are_not_given(cluster, tmp_path):
    run = (await submitted(cluster, tmp_path, "client-ci"))["id"]
    report = subjects.artifact(f"default/{run}", "report")
    async with cluster.bus("client-lab") as bus:
        with pytest.raises(NoResponders):
            await store(bus, "default", GetObject(1, report))
        lines = [subjects.step_logs(shard, f"default/{run}") for shard in range(4)]
        for request in (
            GetObject(1, report, 0, 1),
            TouchObject(1, report, 1),
            NameObject(1, report, nuid_of("science", "a"), 1, "x"),
            NameObject(1, "science/r/x", nuid_of("default", "a"), 1, "x"),
            NameObject(1, "science/r/x", "science=*", 1, "x"),
            AddChunk(1, nuid_of("default", "a"), b"x"),
            AddChunk(1, "science=a.b", b"x"),
            *(GetLines(1, line) for line in lines),
            GetLines(1, "headrace.logs.*.science.>"),
            GetLines(1, "headrace.logs.0.science.*"),
            GetLines(1, "headrace.logs.>"),
        ):
            assert (await store(bus, "science", request)).code == "invalid-request", request
        assert (await store(bus, "science", GetObject(1, "science/r/none"))).size == -1
    async with cluster.bus("client-ci") as bus:
        assert (await store(bus, "default", GetObject(1, report))).size > 0


async def test_a_client_commands_in_its_namespace_only(cluster):
    asking = encode(ClientBatch(1, "science", [ListRuns()]))
    async with cluster.bus("client-ci") as bus:
        for subject in (subjects.command("science", 0), subjects.archive("science")):
            with pytest.raises(NoResponders):
                await bus.request(subject, asking, timeout_s=2)
        # Under its own subject, with the other namespace in the message.
        for subject in (
            subjects.command("default", 0),
            subjects.archive("default"),
            subjects.everybody(subjects.archive("default")),
        ):
            answer = await bus.request(subject, asking, timeout_s=5)
            (reply,) = decode(ReplyBatch, answer.data).replies
            assert reply.code == "invalid-request", (subject, reply)


async def test_one_more_worker_later(cluster, tmp_path):
    """Written beside the others, taken by a server that reads its configuration again."""
    ran = await cluster.flowctl(
        *("cluster", "credentials", "--dir", str(cluster.logins), "--worker", "late"),
        *("-c", "late", "-o", "json"),
    )
    assert ran.code == 0, ran
    assert [user["name"] for user in json.loads(ran.out)["users"] if user["new"]] == ["late"]
    await cluster.reload()
    cluster.add_role("worker", "late", "-c", "late")
    await cluster.ready(workers=4)
    file = tmp_path / "late.yaml"
    file.write_text("jobs: {one: {runs-on: late, steps: [{run: echo late}]}}")
    ran = await cluster.flowctl("submit", str(file), "--wait", env=cluster.environ("client-ci"))
    assert ran.code == 0, ran
