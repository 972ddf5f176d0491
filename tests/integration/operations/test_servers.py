"""A NATS server of three is replaced, as docs/operations.md says, while the cluster works."""

from __future__ import annotations

import shutil

import pytest

from support.chaos import APP, Load
from support.cluster import START_S, Cluster, http_get, logs_shown

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

RUNS = 150


async def test_a_server_with_an_empty_disk_takes_the_place_of_one(tmp_path):
    made = Cluster(tmp_path, brokers=3, coordinators=3, shards=3, slots=32, apps=[APP])
    with logs_shown(made):
        async with made as cluster:
            load = Load(cluster, runs=RUNS)
            load.start()
            await load.progressed(0.1)
            replaced, other, _ = cluster.brokers
            await replaced.stop()
            shutil.rmtree(replaced.directory / "store")
            await load.progressed(0.3)
            await replaced.start(wait=False)
            # `curl -f http://HOST:8222/healthz`: all streams are here, and as far as the others.
            assert await replaced.wait_ready(START_S)
            assert http_get(replaced.monitor_port, "/healthz")[0] == 200
            assert (replaced.directory / "store" / "jetstream").is_dir()
            # Proof: now another one may go, for ever, and nothing is missing.
            await load.progressed(0.5)
            await other.kill()
            shutil.rmtree(other.directory / "store")
            await load.submitted(within_s=90)
            verdict = await load.verdict()
            assert (verdict.runs, verdict.twice) == (RUNS, 0)
            await cluster.ready()
            ran = await cluster.flowctl("cluster", "check", "-o", "json")
            assert ran.code == 0, ran.out + ran.err
            verdicts = {one["verdict"] for one in ran.json if one["shard"] < cluster.shards}
            assert verdicts == {"equal"}, ran.out
