"""A NATS server of three is replaced, as docs/operations.md says, while the cluster works."""

from __future__ import annotations

import shutil

import pytest

from support.chaos import APP, Load
from support.cluster import START_S, Cluster, http_get, running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


async def test_a_server_with_an_empty_disk_takes_the_place_of_one(tmp_path):
    async with running(
        Cluster(tmp_path, brokers=3, coordinators=3, shards=3, slots=4, apps=[APP])
    ) as cluster:
        load = Load(cluster)
        load.start()
        await load.goes_on()
        replaced, other, _ = cluster.brokers
        await replaced.stop()
        shutil.rmtree(replaced.directory / "store")
        await load.goes_on()
        await replaced.start(wait=False)
        # `curl -f http://HOST:8222/healthz`: all streams are here, and as far as the others.
        assert await replaced.wait_ready(START_S)
        assert http_get(replaced.monitor_port, "/healthz")[0] == 200
        assert (replaced.directory / "store" / "jetstream").is_dir()
        # Proof: now another one may go, for ever, and nothing is missing.
        await load.goes_on()
        await other.kill()
        shutil.rmtree(other.directory / "store")
        await load.finish(within_s=90)
        assert (await load.verdict()).twice == 0
        await cluster.ready()
        ran = await cluster.flowctl("cluster", "check", "-o", "json")
        assert ran.code == 0, ran.out + ran.err
        verdicts = {one["verdict"] for one in ran.json if one["shard"] < cluster.shards}
        assert verdicts == {"equal"}, ran.out
