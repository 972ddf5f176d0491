"""What every coordinator of a cluster can read, and an owner whose record is to say so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from headrace.coordinator.control.view import CoordinatorRecord
from headrace.coordinator.core import Machine
from headrace.coordinator.runtime.owner import Owner
from headrace.coordinator.runtime.writer import Rebuild
from headrace.coordinator.shardlog import ShardLog

LOOK_S = 2.0
"""So often an owner looks whether all have been upgraded."""


def common_level(own: int, peers: Iterable[str], known: Mapping[str, CoordinatorRecord]) -> int:
    """Return the feature level that all *peers* have, and we; 0 while one of them is away.

    So it rises only when all are there: in the middle of an upgrade an old one, which is being
    restarted, may still have to take a shard over.
    """
    level = own
    for name in peers:
        record = known.get(name)
        if record is None or record.status != "online":
            return 0
        level = min(level, record.feature_level)
    return level


async def keep_level(owner: Owner, shard_log: ShardLog, common: Callable[[], int]) -> None:
    """Have the log taken anew whenever *common* is more than its record of ownership says."""
    while True:
        await asyncio.sleep(LOOK_S)
        if owner.leading.is_set() and shard_log.feature_level < common():
            owner.post(renew)


def renew(_machine: Machine) -> None:
    """Have an owner take its log anew: what was decided and is not logged is decided again then."""
    raise Rebuild("the feature level of the cluster has risen")
