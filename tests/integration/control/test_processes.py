"""Control planes as processes on a real broker: kill, freeze, broker restart, changing numbers."""

import asyncio

import pytest

from headrace.bus import connect
from support.broker import broker, eventually
from support.control_fleet import Fleet

__all__ = ["broker"]

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

THREE = ("c0", "c1", "c2")
FIVE = (*THREE, "c3", "c4")


@pytest.fixture
async def fleet(broker):
    async with await connect(broker.url, name="watcher") as bus:
        fleet = Fleet(broker, bus)
        yield fleet
        fleet.close()


async def three(fleet):
    fleet.start(*THREE)
    await fleet.settle(*THREE)
    return fleet.controllers()[0]


async def test_one_process_owns_all(fleet):
    fleet.start("c0")
    await fleet.settle("c0")
    await fleet.stop("c0")
    assert fleet.beats["c0"][1].stopped


async def test_kill_of_the_controller_and_return(fleet):
    controller = await three(fleet)
    rest = [name for name in THREE if name != controller]
    fleet.kill(controller)
    await fleet.settle(*rest, within_s=5)
    fleet.start(controller, peers=THREE)
    await fleet.settle(*THREE)
    await eventually(
        lambda: {len(beat.owned) for beat in fleet.living().values()} == {2}, within_s=20
    )


async def test_a_frozen_controller_is_replaced_and_fits_in_again(fleet):
    controller = await three(fleet)
    rest = [name for name in THREE if name != controller]
    fleet.freeze(controller)
    await fleet.settle(*rest, within_s=5)
    term = fleet.living()[rest[0]].term
    fleet.thaw(controller)
    await fleet.settle(*THREE)
    assert {beat.term for beat in fleet.living().values()} == {term}


async def test_a_broker_restart_moves_nothing(fleet, broker):
    await three(fleet)
    owners = fleet.owners()
    generations = {name: beat.owned for name, beat in fleet.living().items()}
    await broker.kill()
    await broker.start()
    await eventually(lambda: fleet.bus.connected, within_s=30)
    await fleet.settle(*THREE)
    assert fleet.owners() == owners
    assert {name: beat.owned for name, beat in fleet.living().items()} == generations


async def test_a_frozen_broker_moves_nothing(fleet, broker):
    await three(fleet)
    generations = {name: beat.owned for name, beat in fleet.living().items()}
    broker.pause()
    await asyncio.sleep(2.5)  # the fault lasts
    broker.resume()
    await fleet.settle(*THREE)
    assert {name: beat.owned for name, beat in fleet.living().items()} == generations


async def test_all_killed_at_once(fleet):
    await three(fleet)
    former = fleet.living()
    generation = max(max(beat.owned.values()) for beat in former.values() if beat.owned)
    for name in THREE:
        fleet.kill(name)
    fleet.start(*THREE)
    await eventually(
        lambda: all(
            beat.incarnation != former[name].incarnation for name, beat in fleet.living().items()
        ),
        within_s=30,
    )
    await fleet.settle(*THREE)
    assert all(
        number > generation for beat in fleet.living().values() for number in beat.owned.values()
    )


async def test_one_to_three_to_five_to_three(fleet):
    fleet.start("c0")
    await fleet.settle("c0")
    fleet.start("c1", "c2", peers=THREE)
    await eventually(lambda: {"c1", "c2"} <= fleet.living().keys(), within_s=30)
    await restart(fleet, "c0", THREE)
    await fleet.settle(*THREE)
    fleet.start("c3", "c4", peers=FIVE)
    for name in THREE:
        await restart(fleet, name, FIVE)
    await fleet.settle(*FIVE)
    for name in THREE:
        await restart(fleet, name, THREE)
    for name in ("c3", "c4"):
        await fleet.stop(name)
    await fleet.settle(*THREE)


async def restart(fleet, name, peers):
    await fleet.stop(name)
    incarnation = fleet.beats[name][1].incarnation
    fleet.start(name, peers=peers)
    await eventually(
        lambda: name in fleet.living() and fleet.living()[name].incarnation != incarnation,
        within_s=30,
    )
    await eventually(
        lambda: all(len(owners) == 1 for owners in fleet.owners().values()), within_s=20
    )
