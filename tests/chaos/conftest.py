"""A cluster that the tests of a module harm, and a load on it.

The module says which: its fixture `clusters`, and `RUNS` for the load.
"""

import pytest

from support.chaos import Load


@pytest.fixture
async def cluster(clusters, request):
    """The module's cluster, whole again."""
    async with clusters.whole(request.session) as whole:
        yield whole


@pytest.fixture
async def load(cluster, request):
    """Runs that are submitted and judged while a test does harm."""
    made = Load(cluster, runs=request.module.RUNS)
    made.start()
    yield made
    await made.stop()
