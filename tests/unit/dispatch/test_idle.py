"""Whether steps of a lane wait for workers, or for their coordinator."""

from support.dispatchkit import World, lane, started


async def test_workers_with_free_slots_stand_idle():
    world = World()
    shard = await started(world, 0)
    world.beat(slots=4)
    assert shard.stands_idle(lane())


async def test_workers_that_are_half_taken_do_not():
    world = World()
    shard = await started(world, 0)
    for free in (1, 0):
        world.beat(slots=4, free=free)
        assert not shard.stands_idle(lane())


async def test_a_lane_that_nobody_serves_waits_for_workers():
    world = World()
    shard = await started(world, 0)
    assert not shard.stands_idle(lane("other", ("gpu",)))
    world.dispatcher.lane_capabilities["default", "other"] = ("gpu",)
    assert not shard.stands_idle(lane("other", ("gpu",)))


async def test_one_workers_own_lane_waits_for_it():
    world = World()
    shard = await started(world, 0)
    assert not shard.stands_idle(lane("@w"))
