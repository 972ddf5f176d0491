"""From one release to the next without a stop, and not back: real processes.

The releases are this code with another feature level; `upgrade.py` takes any commit for one.
"""

import asyncio

import pytest

from support.chaos import APP
from support.cluster import Cluster, running
from support.upgrades import levels, made_of, of_level, upgraded_under_load

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


async def test_a_rolling_upgrade_fails_no_run_and_there_is_no_way_back(tmp_path):
    made = {"coordinators": 3, "workers": 2, "shards": 3, "slots": 16, "apps": [APP]}
    async with running(made_of(Cluster(tmp_path, **made), of_level(3))) as cluster:
        assert set((await levels(cluster)).values()) <= {0, 3}
        verdict = await upgraded_under_load(cluster, of_level(4), runs=300)
        # Workers were drained, and coordinators gave their shards up: nothing was lost.
        assert verdict.twice == 0
        # Who took a shard when some were of the old release takes it anew once none is.
        async with asyncio.timeout(30):
            while set((await levels(cluster)).values()) != {4}:
                await asyncio.sleep(0.2)
        # An old one does not come back.
        downgraded = cluster.coordinators[-1]
        assert await downgraded.stop() == 0
        downgraded.set_env(of_level(3).env)
        downgraded.start()
        assert await downgraded.ended() == 5
        said = downgraded.said()
        assert "needs feature level 4" in said
        assert "this release has level 3: a downgrade is not possible" in said
        # And the others go on without it.
        await cluster.ready()
