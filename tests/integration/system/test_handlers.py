"""A handler that nobody offers: refused by `submit`, said by `explain` when taken all the same."""

import pytest

from support.cluster import wait_for

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("system"),
]


async def test_an_unknown_handler(cluster, tmp_path):
    path = tmp_path / "custom.yaml"
    path.write_text(
        "name: custom\njobs:\n  main:\n    runs-on: linux\n    steps:\n      - uses: text/count\n"
    )
    refused = await cluster.flowctl("submit", str(path), "--id", "custom")
    assert refused.code == 3
    assert f"{path}:6:15: unknown handler 'text/count'" in refused.err
    assert (await cluster.flowctl("get", "custom")).code == 4

    taken = await cluster.flowctl("submit", str(path), "--id", "custom", "--allow-unknown")
    assert taken.code == 0, taken.err

    async def reason():
        said = (await cluster.flowctl("explain", "custom", "-o", "json")).json
        return next(
            (r["reason"] for r in said["reasons"] if "uses:text/count" in r["reason"]), None
        )

    said = await wait_for(reason, within_s=10, what="a reason")
    assert said.startswith("no worker offers uses:text/count")
    assert (await cluster.flowctl("cancel", "custom")).code == 0
