"""A shard's log: what it promises (`log`), and the implementations in modules of their own.

`memory` and `snapshots` are here; `sqlite` (needs aiosqlite) and `jetstream` (needs the bus) are
imported by whoever composes a runtime from them.
"""

from headrace.coordinator.shardlog.levels import FEATURE_LEVEL, NeedsNewerRelease
from headrace.coordinator.shardlog.log import (
    Fenced,
    Fold,
    Level,
    LogFull,
    LogStatus,
    ShardLog,
    SnapshotStore,
)
from headrace.coordinator.shardlog.memory import MemoryLog, MemoryLogStore
from headrace.coordinator.shardlog.snapshots import MemorySnapshotStore, ObjectSnapshotStore

__all__ = [
    "FEATURE_LEVEL",
    "Fenced",
    "Fold",
    "Level",
    "LogFull",
    "LogStatus",
    "MemoryLog",
    "MemoryLogStore",
    "MemorySnapshotStore",
    "NeedsNewerRelease",
    "ObjectSnapshotStore",
    "ShardLog",
    "SnapshotStore",
]
