"""`flowctl variable` at a running cluster: the run's shard hears of what the system shard keeps."""

import pytest

from support.cluster import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

TEXT = """\
name: where
jobs:
  main:
    if: vars.E2E_REGION != ''
    runs-on: linux
    outputs: {region: "${{ vars.E2E_REGION }}"}
    steps: [{run: "true"}]
"""


async def test_a_run_reads_the_namespaces_variables(user):
    file = user.file(TEXT)
    await user("variable", "set", "E2E_REGION", "eu")
    try:
        assert (await user("var", "get", "e2e_region")).out == "eu\n"

        async def seen():
            # Its shard may hear of it a moment later.
            view = await user.end(await user.start(file))
            return next(s["outputs"] for s in view["steps"] if s["path"] == "main")

        assert await wait_for(seen, within_s=20, what="the variable") == {"region": "eu"}
    finally:
        await user("var", "delete", "E2E_REGION")
