"""kill -9 in the middle of a load: every acknowledged run completes, nothing recorded runs again.

The default set runs each kind of kill once, on `RUNS` runs of three steps; HEADRACE_CHAOS_ROUNDS
repeats it, each round at another moment.
"""

import os

import pytest

from support.chaos import APP
from support.cluster import Cluster, kept

RUNS = int(os.environ.get("HEADRACE_CHAOS_RUNS", "1000"))
ROUNDS = int(os.environ.get("HEADRACE_CHAOS_ROUNDS", "1"))

MADE = {"workers": 2, "slots": 32, "apps": [APP]}

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    with kept(lambda: Cluster(tmp_path_factory.mktemp("kills"), **MADE)) as made:
        yield made


def moment(round_number):
    """Return how far the load has got when the harm is done: another share each round."""
    return 0.1 + (0.25 + 0.37 * round_number) % 0.7


async def broker_restarted(cluster):
    await cluster.brokers[0].kill()
    await cluster.brokers[0].start()


@pytest.mark.parametrize("round_number", range(ROUNDS))
async def test_worker(cluster, load, round_number):
    await load.progressed(moment(round_number))
    victim = cluster.workers[0]
    killed = [victim.pid]
    victim.kill()
    victim.start()
    await load.submitted()
    verdict = await load.verdict(killed=killed)
    # In flight on the killed worker: what it ran, and what it had not confirmed.
    assert verdict.twice <= 4 * cluster.slots, verdict
    assert verdict.runs == RUNS


@pytest.mark.parametrize("round_number", range(ROUNDS))
async def test_worker_that_stays_dead(cluster, load, round_number):
    await load.progressed(moment(round_number))
    victim = cluster.workers[1]
    killed = [victim.pid]
    victim.kill()
    await load.submitted()
    verdict = await load.verdict(killed=killed)
    assert verdict.runs == RUNS


@pytest.mark.parametrize("round_number", range(ROUNDS))
async def test_coordinator(cluster, load, round_number):
    await load.progressed(moment(round_number))
    (victim,) = cluster.coordinators
    victim.kill()
    victim.start()
    await load.submitted()
    verdict = await load.verdict()
    assert (verdict.runs, verdict.twice) == (RUNS, 0)


@pytest.mark.parametrize("round_number", range(ROUNDS))
async def test_nats_server(cluster, load, round_number):
    await load.progressed(moment(round_number))
    await broker_restarted(cluster)
    await load.submitted()
    verdict = await load.verdict()
    assert (verdict.runs, verdict.twice) == (RUNS, 0)


@pytest.mark.parametrize("round_number", range(ROUNDS))
async def test_all_together(cluster, load, round_number):
    await load.progressed(moment(round_number))
    killed = [worker.pid for worker in cluster.workers]
    everything = [*cluster.workers, *cluster.coordinators]
    await cluster.brokers[0].kill()
    for program in everything:
        program.kill()
    await cluster.brokers[0].start()
    for program in everything:
        program.start()
    await load.submitted()
    verdict = await load.verdict(killed=killed)
    assert verdict.runs == RUNS
    check = await cluster.flowctl("cluster", "check")
    assert check.code == 0, check.out


@pytest.mark.parametrize("round_number", range(ROUNDS))
async def test_one_after_the_other(cluster, load, round_number):
    """Every process dies once while the same load runs, the coordinator right after the broker."""
    killed = []
    await load.progressed(0.1)
    cluster.coordinators[0].kill()
    cluster.coordinators[0].start()
    await load.progressed(0.3)
    await broker_restarted(cluster)
    cluster.coordinators[0].kill()
    cluster.coordinators[0].start()
    await load.progressed(0.5)
    for worker in cluster.workers:
        killed.append(worker.pid)
        worker.kill()
        worker.start()
    await load.submitted()
    verdict = await load.verdict(killed=killed)
    assert verdict.runs == RUNS
