"""What every coordinator of a cluster can read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from headrace.coordinator.control.view import CoordinatorRecord


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
