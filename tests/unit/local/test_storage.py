"""Which level keeps what, and who may open a folder."""

from __future__ import annotations

import pytest

from headrace.coordinator.shardlog import MemoryLog
from headrace.errors import Conflict, InvalidRequest, Unavailable
from headrace.local.storage import open_storage
from headrace.telemetry import SystemClock

CLOCK = SystemClock()


async def test_memory_leaves_nothing_behind():
    storage = await open_storage("memory", None, CLOCK)
    assert isinstance(storage.log, MemoryLog)
    (storage.data_dir / "x").write_text("x")
    await storage.close()
    assert not storage.data_dir.exists()


async def test_a_level_belongs_to_a_folder(tmp_path):
    storage = await open_storage("journal", tmp_path, CLOCK)
    await storage.log.take("me", lambda position, data: None)
    await storage.log.close()
    await storage.close()
    with pytest.raises(InvalidRequest, match="persistence journal"):
        await open_storage("snapshot", tmp_path, CLOCK)
    again = await open_storage("journal", tmp_path, CLOCK)
    await again.close()
    assert again.incarnation != storage.incarnation


async def test_a_folder_is_open_once(tmp_path):
    storage = await open_storage("snapshot", tmp_path, CLOCK)
    with pytest.raises(Conflict, match="another engine"):
        await open_storage("snapshot", tmp_path, CLOCK)
    await storage.close()


async def test_what_cannot_be(tmp_path):
    with pytest.raises(InvalidRequest, match="needs a folder"):
        await open_storage("journal", None, CLOCK)
    with pytest.raises(
        InvalidRequest, match=r"memory keeps nothing in .*: say snapshot or journal"
    ):
        await open_storage("memory", tmp_path, CLOCK)
    with pytest.raises(InvalidRequest, match="no persistence level"):
        await open_storage("disk", tmp_path, CLOCK)
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        await open_storage("journal", tmp_path / "file" / "below", CLOCK)
