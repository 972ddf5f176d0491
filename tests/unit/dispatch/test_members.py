"""Whom a broadcast is told of, and a lost worker that is wanted again."""

from __future__ import annotations

import pytest

from support.dispatchkit import World, lane, tasks


@pytest.fixture
def world():
    return World()


async def test_the_members_of_a_group(world):
    shard = world.shard()
    world.beat("a", capabilities=["web", "linux"])
    world.beat("b", "7", capabilities=["WEB"])
    world.beat("c", capabilities=["db"])
    world.beat("d", capabilities=["web"], draining=True)
    world.beat("e", capabilities=["web"], namespace="other")
    world.pass_ms(4_000)
    assert sorted(shard.members("default", ("web",))) == [("a", "1"), ("b", "7")]
    assert shard.members("default", ("gpu",)) == []
    assert "gpu" in world.dispatcher.missing_since


async def test_who_has_just_begun_to_listen_does_not_know_all(world):
    shard = world.shard()
    world.beat("a", capabilities=["web"])
    assert shard.members("default", ("web",)) is None
    world.pass_ms(4_000)
    assert shard.members("default", ("web",)) == [("a", "1")]


async def test_who_was_cut_off_does_not_know_all(world):
    shard = world.shard()
    world.beat("a", capabilities=["web"])
    world.pass_ms(4_000)
    world.pass_ms(2_000, deaf=True)
    assert shard.members("default", ("web",)) is None
    world.pass_ms(1_000)
    assert shard.members("default", ("web",)) is None
    world.pass_ms(4_000)
    assert shard.members("default", ("web",)) == [("a", "1")]


async def test_one_that_is_lost_is_no_member(world):
    shard = world.shard()
    world.beat("a", capabilities=["web"])
    world.beat("b", capabilities=["web"])
    world.pass_ms(4_000)
    world.silence("a")
    world.pass_ms(5_000)
    assert shard.members("default", ("web",)) == [("b", "1")]


async def test_a_lost_worker_that_is_wanted_on_is_told_again(world):
    shard = world.shard()
    told = []
    world.pass_ms(4_000)
    for _ in range(25):
        shard.credit(lane("@w"))
        world.pass_ms(1_000)
        told += shard.gone(0)
    assert len(told) == 2


async def test_a_lost_worker_that_nobody_wants_is_forgotten(world):
    shard = world.shard()
    world.pass_ms(4_000)
    shard.credit(lane("@w"))
    told = []
    for _ in range(60):
        world.pass_ms(1_000)
        told += shard.gone(0)
    assert 1 <= len(told) <= 2
    shard.credit(lane("@w"))
    assert shard.gone(0) == []
    world.pass_ms(10_500)
    assert [worker for worker, _ in shard.gone(0)] == ["w"]


async def test_who_is_preferred_gets_what_it_can_begin_at_once(world):
    shard = world.shard()
    wanted = lane("@w?l", ("web",))
    assert shard.credit(wanted) == (0, "@w?l")
    world.beat(capabilities=["web"], slots=4)
    assert shard.credit(wanted) == (4, "@w-1")
    shard.send(5, wanted, "@w-1", tasks(1, 2))
    assert shard.credit(wanted)[0] == 2
    shard.send(5, lane("@w"), "@w-1", tasks(3))
    assert shard.credit(wanted)[0] == 1
    assert world.dispatcher.lane_capabilities["default", "@w-1"] == ()
    world.beat(capabilities=["web"], slots=4, draining=True)
    assert shard.credit(wanted)[0] == 0
    world.beat(capabilities=["db"], slots=4)
    assert shard.credit(wanted)[0] == 0


async def test_a_preferred_worker_that_is_gone_is_not_missed(world):
    shard = world.shard()
    world.pass_ms(4_000)
    for _ in range(20):
        assert shard.credit(lane("@w?l"))[0] == 0
        world.pass_ms(1_000)
    assert shard.gone(0) == []
