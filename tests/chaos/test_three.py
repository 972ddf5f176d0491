"""Three NATS servers, three coordinators: the loss of one changes nothing but the owner."""

import asyncio
import json
import os

import pytest

from headrace.bus import connect
from headrace.errors import Busy, Unreachable
from headrace.messages import subjects
from support.chaos import APP, Load
from support.cluster import START_S, Cluster, kept, until, wait_for
from support.patience import PATIENCE

RUNS = int(os.environ.get("HEADRACE_CHAOS_RUNS", "1000")) // 2
ROUNDS = int(os.environ.get("HEADRACE_CHAOS_ROUNDS", "1"))

MADE = {"brokers": 3, "coordinators": 3, "workers": 2, "shards": 3, "slots": 32, "apps": [APP]}

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    with kept(lambda: Cluster(tmp_path_factory.mktemp("three"), **MADE)) as made:
        yield made


async def leader_of(cluster, stream):
    """Return the broker that leads *stream*, once one does: between two there is none."""
    async with await connect([broker.url for broker in cluster.brokers], name="test") as bus:

        async def look():
            try:
                answer = await bus.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout_s=5.0)
            except Unreachable:
                return None
            leader = json.loads(answer.data).get("cluster", {}).get("leader")
            return next((broker for broker in cluster.brokers if broker.name == leader), None)

        return await wait_for(look, within_s=START_S, what=f"a leader of {stream}")


async def equal_at_the_end(cluster):
    """Every shard of level journal has a standby with the same state, once the harm is mended."""

    async def look():
        ran = await cluster.flowctl("cluster", "check", "-o", "json", within_s=60)
        if ran.code not in (0, 1):
            return None  # nobody answered in time
        verdicts = {verdict["shard"]: verdict["verdict"] for verdict in ran.json}
        assert "different" not in verdicts.values(), ran.out
        return {verdicts.get(shard) for shard in range(cluster.shards)} == {"equal"}

    await wait_for(look, within_s=START_S, what="standbys with the state of their owners")


@pytest.mark.parametrize("round_number", range(ROUNDS))
@pytest.mark.parametrize("stream", ["HEADRACE_LOG_0", subjects.TASK_STREAM])
async def test_kill_of_a_stream_leader(cluster, load, stream, round_number):
    await load.progressed(0.2 + 0.17 * round_number % 0.6)
    leader = await leader_of(cluster, stream)
    await leader.kill()
    await load.submitted(within_s=90)
    verdict = await load.verdict()
    assert (verdict.runs, verdict.twice) == (RUNS, 0)
    # It is healthy once it has caught up with the others.
    await leader.start(timeout_s=START_S * PATIENCE)
    await equal_at_the_end(cluster)


@pytest.mark.parametrize("round_number", range(ROUNDS))
async def test_kill_of_a_coordinator_that_owns_shards(cluster, load, round_number):
    await load.progressed(0.2 + 0.17 * round_number % 0.6)
    before = await cluster.ready()
    victim = cluster.programs[next(s.owner for s in before.shards if s.level == "journal")]
    lost = {shard.shard for shard in before.shards if shard.owner == victim.name}
    epochs = {shard.shard: shard.epoch for shard in before.shards}
    assert lost
    victim.kill()
    await load.submitted()
    verdict = await load.verdict()
    assert (verdict.runs, verdict.twice) == (RUNS, 0)
    after = await cluster.info_when(
        lambda info: all(shard.owner != victim.name and shard.epoch for shard in info.shards),
        within_s=20,
        what="others to own its shards",
    )
    for shard in after.shards:
        if shard.shard in lost and shard.level == "journal":
            assert shard.epoch > epochs[shard.shard]
    await equal_at_the_end(cluster)
    # It comes back and gets shards again.
    victim.start()
    await cluster.ready()
    await equal_at_the_end(cluster)


@pytest.mark.parametrize("round_number", range(ROUNDS))
async def test_frozen_owner_is_deposed(cluster, load, round_number):
    """The old owner wakes with appends in its hands: they are fenced."""
    await load.progressed(0.2 + 0.17 * round_number % 0.6)
    info = await cluster.ready()
    victim = cluster.programs[next(s.owner for s in info.shards if s.level == "journal")]
    victim.freeze()
    await cluster.info_when(
        lambda info: all(
            shard.owner != victim.name and shard.epoch
            for shard in info.shards
            if shard.level == "journal"
        ),
        within_s=30,
        what="the frozen owner to be deposed",
    )
    victim.thaw()
    await load.submitted()
    verdict = await load.verdict()
    assert (verdict.runs, verdict.twice) == (RUNS, 0)
    await equal_at_the_end(cluster)


@pytest.mark.parametrize("round_number", range(ROUNDS))
async def test_kill_of_everything(cluster, load, round_number):
    await load.progressed(0.2 + 0.17 * round_number % 0.6)
    killed = [worker.pid for worker in cluster.workers]
    everything = [*cluster.workers, *cluster.coordinators]
    for program in everything:
        program.kill()
    await asyncio.gather(*(broker.kill() for broker in cluster.brokers))
    for broker in cluster.brokers:
        await broker.start(wait=False)
    for program in everything:
        program.start()
    await load.submitted(within_s=90)
    verdict = await load.verdict(killed=killed)
    # A cluster that comes back later than a client tries leaves it without an answer.
    assert {type(error) for error in load.refused} <= {Unreachable, Busy}
    assert verdict.runs + len(load.refused) == RUNS
    assert verdict.runs > RUNS / 2
    await equal_at_the_end(cluster)


@pytest.mark.parametrize("round_number", range(ROUNDS))
async def test_concurrency_key_is_never_held_twice_and_free_at_the_end(cluster, round_number):
    """Runs of all shards queue for one key while its owners are killed, one after the other."""
    load = Load(cluster, runs=60, seconds=0.01, more="concurrency: {group: deploy, queue: max}\n")
    load.start()
    try:
        for number, victim in enumerate(cluster.coordinators, 1):
            await load.progressed(0.05 * round_number % 0.2 + 0.2 * number)
            victim.kill()
            victim.start()
        await load.submitted(within_s=90)
        verdict = await load.verdict()
    finally:
        await load.stop()
    assert (verdict.runs, verdict.twice) == (60, 0)
    runs = [execution.key.split("/")[1] for execution in load.executions()]
    turns = [run for number, run in enumerate(runs) if number == 0 or runs[number - 1] != run]
    # Each run had its turn, and nobody else's steps lie between its own.
    assert len(turns) == len(set(turns)) == 60
    last = Load(cluster, runs=1, more="concurrency: {group: deploy, queue: max}\n")
    last.start()
    await last.submitted()
    assert [view.state for view in await last.ended(within_s=20)] == ["COMPLETED"]
    await equal_at_the_end(cluster)


async def test_workers_and_coordinators_of_a_cluster_stop_in_order(cluster):
    for program in (*cluster.workers, *cluster.coordinators):
        assert await program.stop() == 0, program.said()
    await until(lambda: not cluster.marked(), within_s=5, what="nothing but brokers to be left")
