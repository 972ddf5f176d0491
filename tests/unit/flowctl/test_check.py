"""`cluster check` judges what stays so, not what a moment shows."""

from types import SimpleNamespace

from headrace.flowctl import _cmd_cluster
from headrace.messages import ShardInfo


async def test_a_shard_that_is_being_taken_over_is_looked_at_again():
    seen = [ShardInfo(shard=1), ShardInfo(shard=1, owner="c1")]

    class Looks:
        async def info(self, *, workers):
            assert workers
            return SimpleNamespace(shards=[seen.pop(0)])

    (verdict,) = await _cmd_cluster._check(Looks())
    assert verdict["verdict"] == "no standby"
