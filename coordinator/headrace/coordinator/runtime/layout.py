"""Which shards there are, of which level, and which slots of ids they hold."""

from __future__ import annotations

from headrace.config import Coordinator
from headrace.coordinator.shardlog.log import Level
from headrace.messages import subjects


class Layout:
    """The shards of a cluster: journal ones first (shard 0 is the system shard too)."""

    def __init__(self, *, journal: int, snapshot: int, memory: int) -> None:
        self.journal, self.snapshot, self.memory = journal, snapshot, memory

    @classmethod
    def of(cls, settings: Coordinator) -> Layout:
        """Return the configured layout."""
        return cls(
            journal=settings.shards_journal,
            snapshot=settings.shards_snapshot,
            memory=settings.shards_memory,
        )

    @property
    def shards(self) -> range:
        """All shards."""
        return range(self.journal + self.snapshot + self.memory)

    def level(self, shard: int) -> Level:
        """Return the durability level of a shard."""
        if shard < self.journal:
            return "journal"
        return "snapshot" if shard < self.journal + self.snapshot else "memory"

    def slots(self) -> list[int]:
        """Return run-length pairs (shard, slots) of journal runs."""
        pairs: list[int] = []
        for shard in range(self.journal):
            first = shard * subjects.SLOTS // self.journal
            last = (shard + 1) * subjects.SLOTS // self.journal
            pairs += [shard, last - first]
        return pairs

    def level_shards(self) -> dict[str, list[int]]:
        """Return the shards of the weaker levels."""
        found = {
            "snapshot": list(range(self.journal, self.journal + self.snapshot)),
            "memory": list(range(self.journal + self.snapshot, len(self.shards))),
        }
        return {level: shards for level, shards in found.items() if shards}

    def home(self, key: str) -> int:
        """Return the journal shard that an entity's key (a concurrency key) lives in."""
        slot = subjects.slot_of(key)
        # The inverse of `slots`: shard s holds [s * SLOTS // n, (s + 1) * SLOTS // n).
        shard = slot * self.journal // subjects.SLOTS
        while (shard + 1) * subjects.SLOTS // self.journal <= slot:
            shard += 1
        return shard

    def homes(self, key: str) -> list[int]:
        """Return the shards, one of each level, that a run of this key may live in."""
        slot = subjects.slot_of(key)
        weaker = [shards[slot % len(shards)] for shards in self.level_shards().values()]
        return [self.home(key), *weaker]

    def settings(self) -> dict[str, int]:
        """Return what the system shard remembers of the layout."""
        return {"journal": self.journal, "snapshot": self.snapshot, "memory": self.memory}
