"""SIGSTOP past the lease, SIGCONT: what wakes up holds an old token and changes nothing."""

import re

import pytest

from headrace.client import Client
from support.chaos import APP, Load, compiled
from support.cluster import Cluster, http_get, kept, running, until, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

# A short lease: the test waits for it to lapse.
QUICK = {"HEADRACE_CFG_DISPATCH__LEASE_MS": "1200", "HEADRACE_CFG_DISPATCH__HEARTBEAT_MS": "300"}
MADE = {"workers": 2, "slots": 8, "apps": [APP], "env": QUICK}
GATED = """\
name: gated
inputs:
  journal: {type: string, required: true}
  gate: {type: string, required: true}
tasks:
  - name: only
    type: chaos/note
    config: {journal: "${{ inputs.journal }}", gate: "${{ inputs.gate }}"}
  - name: after
    type: chaos/note
    depends_on: [only]
    config: {journal: "${{ inputs.journal }}"}
"""

OPEN = {"gate": "/"}


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    with kept(lambda: Cluster(tmp_path_factory.mktemp("freezes"), **MADE)) as made:
        yield made


def metric(port, name):
    """Return the sum of a counter's values."""
    _, text = http_get(port, "/metrics")
    found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? ([\d.e+]+)$", text, re.MULTILINE)
    assert found, f"no {name}:\n{text}"
    return sum(map(float, found))


async def test_frozen_worker_is_refused_when_it_wakes(cluster, tmp_path):
    journal, gate = tmp_path / "journal", tmp_path / "gate"
    async with await cluster.client() as client:
        run = await client.submit(
            compiled(GATED), {"journal": str(journal), "gate": str(gate)}, run_id="frozen"
        )
        await until(journal.exists, within_s=20, what="the first attempt")
        pid = int(journal.read_text().split()[3])
        frozen = next(worker for worker in cluster.workers if worker.pid == pid)
        other = next(worker for worker in cluster.workers if worker is not frozen)
        frozen.freeze()
        await until(
            lambda: journal.read_text().count("\n") == 2, within_s=20, what="the second attempt"
        )
        gate.touch()
        done = await client.wait(run.id, 20)
        assert done.state == "COMPLETED"
        recorded = await client.history(run.id)
        frozen.thaw()
        refused = "headrace_worker_results_refused_total"
        await until(
            lambda: metric(cluster.ports[frozen.name], refused) >= 1,
            within_s=20,
            what="the late answer to be refused",
        )
        # It changed nothing, and the run completed once.
        assert await client.history(run.id) == recorded
        again = await client.get(run.id)
        # What is dispatched meanwhile may reach the frozen worker's open pull, and moves on: so
        # both steps may have more attempts, and each is recorded once, from the other worker.
        assert [(step.path, step.state) for step in again.steps] == [
            ("only", "COMPLETED"),
            ("after", "COMPLETED"),
        ]
        assert {step.outputs["pid"] for step in again.steps} == {other.pid}
        lines = [line.split() for line in journal.read_text().splitlines()]
        for step in again.steps:
            ran = [line for line in lines if line[0].endswith(f"/{step.path}")]
            good = [line for line in ran if int(line[3]) == other.pid]
            assert [int(line[1]) for line in good] == [step.attempt]
            assert len({line[1] for line in ran}) == len(ran)
        completed = [entry.path for entry in recorded if entry.type == "StepCompleted"]
        assert completed == ["only", "after"]
        # The woken worker is one of the fleet again.
        online = await cluster.info_when(
            lambda info: all(w.state == "Online" for w in info.workers) and len(info.workers) == 2,
            within_s=20,
            what="both workers online",
        )
        assert {worker.id for worker in online.workers} == {"w0", "w1"}


async def test_frozen_and_thawed_within_the_lease_keeps_its_step(cluster, tmp_path):
    journal, gate = tmp_path / "journal", tmp_path / "gate"
    async with await cluster.client() as client:
        run = await client.submit(compiled(GATED), {"journal": str(journal), "gate": str(gate)})
        await until(journal.exists, within_s=20, what="the first attempt")

        async def held():
            return next(s for s in (await client.get(run.id)).steps if s.path == "only").worker

        holder = await wait_for(held, within_s=10, what="the holder")
        worker = cluster.programs[holder.split(".")[0]]
        worker.freeze()
        worker.thaw()
        gate.touch()
        done = await client.wait(run.id, 20)
        assert [step.attempt for step in done.steps] == [1, 1]


async def test_frozen_coordinator_under_load(cluster):
    """The only coordinator freezes past every lease; nobody is lost, nothing runs twice."""
    load = Load(cluster, runs=300)
    load.start()
    try:
        await load.progressed(0.2)
        (coordinator,) = cluster.coordinators
        coordinator.freeze()
        begun = len(load.executions())
        await until(lambda: http_get(cluster.ports["w0"], "/metrics")[0] == 200, within_s=5)
        await stalled(load, begun)
        coordinator.thaw()
        await load.submitted()
        verdict = await load.verdict()
    finally:
        await load.stop()
    assert (verdict.runs, verdict.twice) == (300, 0)


async def test_frozen_one_of_three_coordinators_does_not_keep_clients_waiting(tmp_path):
    """It stays in the queue groups of the broker: two of three questions would go well."""
    async with (
        running(Cluster(tmp_path, coordinators=3, shards=3, apps=[APP])) as cluster,
        await cluster.client() as first,
    ):
        journal = {"journal": str(cluster.folder / "journal")}
        ended = await first.wait((await first.submit(compiled(GATED), OPEN | journal)).id, 20)
        assert ended.state == "COMPLETED"
        await wait_for(
            lambda: archived(first, ended.id), within_s=20, what="the run in the archive"
        )
        (frozen, *_) = cluster.coordinators
        frozen.freeze()
        await cluster.info_when(
            lambda info: all(shard.owner != frozen.name and shard.epoch for shard in info.shards),
            within_s=30,
            what="the others to own its shards",
        )
        # New clients with little time each: a question that the frozen one got is lost to
        # whoever asks no other in time.
        for _ in range(10):
            async with await Client.connect(cluster.servers, timeout_s=1.0) as client:
                assert (await client.get(ended.id)).archived
                assert [run.id for run in (await client.list()).runs] == [ended.id]
        ran = await cluster.flowctl("get", ended.id, "-o", "name")
        assert (ran.code, ran.out.split()) == (0, [ended.id]), ran.err
        frozen.thaw()


async def archived(client, run):
    """Tell whether *run* has left its shard."""
    return (await client.get(run)).archived


async def test_frozen_broker_under_load(cluster):
    load = Load(cluster, runs=300)
    load.start()
    try:
        await load.progressed(0.2)
        cluster.brokers[0].pause()
        await stalled(load, len(load.executions()))
        cluster.brokers[0].resume()
        await load.submitted()
        verdict = await load.verdict()
    finally:
        await load.stop()
    assert (verdict.runs, verdict.twice) == (300, 0)


async def stalled(load, begun, *, looks=150):
    """Let the fault last for longer than two leases: return once nothing has begun for so long."""
    seen, still = begun, 0

    async def look():
        nonlocal seen, still
        now = len(load.executions())
        seen, still = now, still + 1 if now == seen else 0
        return still >= looks

    await wait_for(look, within_s=30, what="the load to stand still")
