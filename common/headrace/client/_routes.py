"""Which shard a run lives in. Pure; made from `ServerInfo`."""

from __future__ import annotations

from bisect import bisect_right

from headrace.errors import InvalidRequest, Unavailable
from headrace.messages import ServerInfo, subjects

LEVELS = ("journal", "snapshot", "memory")


class Routes:
    """The slot table of a cluster at one time.

    Raises `Unavailable` when the table does not cover every slot.
    """

    def __init__(self, info: ServerInfo) -> None:
        self._starts: list[int] = []
        self._shards: list[int] = []
        covered = 0
        for shard, count in zip(info.slots[::2], info.slots[1::2], strict=False):
            self._starts.append(covered)
            self._shards.append(shard)
            covered += count
        if covered < subjects.SLOTS:
            raise Unavailable(
                f"the cluster has no complete slot table yet ({covered} of {subjects.SLOTS} slots)"
            )
        self._levels = info.level_shards

    def shard(self, key: str, level: str = "journal") -> int:
        """Return the shard for a new run with this run key.

        Raises `InvalidRequest` for a level that does not exist and `Unavailable` for one that
        this cluster does not offer.
        """
        slot = subjects.slot_of(key)
        if level == "journal":
            return self._shards[bisect_right(self._starts, slot) - 1]
        if level not in LEVELS:
            raise InvalidRequest(f"no durability level {level!r} (there are {', '.join(LEVELS)})")
        shards = self._levels.get(level)
        if not shards:
            raise Unavailable(f"this cluster has no shard of durability level {level!r}")
        return shards[slot % len(shards)]

    def levels(self) -> list[str]:
        """Return the durability levels on offer, `journal` first."""
        return [LEVELS[0], *(level for level in LEVELS[1:] if self._levels.get(level))]

    def all_shards(self) -> list[int]:
        """Return all shards that hold runs, in order."""
        found = set(self._shards)
        for shards in self._levels.values():
            found.update(shards)
        return sorted(found)
