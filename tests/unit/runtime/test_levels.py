"""When the feature level of a cluster may rise, and what an owner does then."""

import asyncio

import pytest

from headrace.coordinator.control.view import CoordinatorRecord
from headrace.coordinator.runtime import levels
from headrace.coordinator.runtime.levels import common_level, keep_level
from headrace.events import NEWEST_LEVEL
from support.ownerkit import GatedLog, Kit


def record(name, level, status="online"):
    return CoordinatorRecord(id=name, incarnation="1", feature_level=level, status=status)


@pytest.mark.parametrize(
    ("known", "level"),
    [
        ([record("a", 3), record("b", 3)], 3),
        # Nobody's is raised by those who are ahead, and nobody has more than we ourselves can read.
        ([record("a", 3), record("b", 2)], 2),
        ([record("a", 4), record("b", 4)], 3),
        # One that is away, or was never seen, may come back as what it was.
        ([record("a", 3), record("b", 3, "offline")], 0),
        ([record("a", 3), record("b", 3, "draining")], 0),
        ([record("a", 3)], 0),
        # A stranger has no say.
        ([record("a", 3), record("b", 3), record("c", 1)], 3),
    ],
)
def test_all_must_be_there_and_the_lowest_counts(known, level):
    assert common_level(3, ("a", "b"), {one.id: one for one in known}) == level


class StampedLog(GatedLog):
    """A log whose ownerships say what all coordinators could read when they began."""

    common = NEWEST_LEVEL - 1
    stamped = 0

    @property
    def feature_level(self):
        return self.stamped

    async def take(self, owner, fold, *, after=0):
        epoch = await super().take(owner, fold, after=after)
        self.stamped = self.common
        return epoch


async def test_an_owner_states_what_its_own_ownership_lets_and_is_renewed(monkeypatch):
    monkeypatch.setattr(levels, "LOOK_S", 0.01)
    kit = Kit()
    log = StampedLog(kit.shard, kit.store)
    async with kit.leading(log) as owner:
        assert owner.machine.level == NEWEST_LEVEL - 1
        log.common = NEWEST_LEVEL
        assert owner.machine.level == NEWEST_LEVEL - 1, "a successor may be of the older release"
        before = owner.machine
        keeping = asyncio.create_task(keep_level(owner, log, lambda: log.common))
        async with asyncio.timeout(30):
            while owner.machine is before or not owner.leading.is_set():
                await asyncio.sleep(0)
        keeping.cancel()
        assert owner.machine.level == NEWEST_LEVEL
