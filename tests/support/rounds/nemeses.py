"""What goes wrong: each nemesis harms a fleet once; `Fleet.mend` takes everything back.

A nemesis returns one sentence about what it did, with the names of its victims. Everything that is
left to chance is decided by the generator that it is given.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from headrace.errors import HeadraceError
from support.rounds.fleet import BROKERS, COORDINATORS, GROUPS, SHARDS, Fleet

Harm = Callable[[Fleet, random.Random], Awaitable[str]]

NEMESES: dict[str, Nemesis] = {}
ALONE = (
    "two at once",
    "rolling restart of the NATS servers",
    "scale workers down and up",
    "kill a log's leader",
)
"""These want an answer of a cluster that works, so they do not come with others."""


class Nemesis(NamedTuple):
    """One kind of fault."""

    name: str
    harm: Harm
    hold_s: tuple[float, float]
    """How long it lasts before it is taken back: at least, at most."""
    needs: str
    """`namespaces` or `disk`; empty: every machine can do it."""


def nemesis(
    name: str, *, hold_s: tuple[float, float] = (0.5, 3.0), needs: str = ""
) -> Callable[[Harm], Harm]:
    """Put a function into the table."""

    def add(harm: Harm) -> Harm:
        NEMESES[name] = Nemesis(name, harm, hold_s, needs)
        return harm

    return add


# -- kill -9 ---------------------------------------------------------------------------------------


@nemesis("kill a worker")
async def _kill_worker(fleet: Fleet, chance: random.Random) -> str:
    victim = chance.choice(fleet.workers)
    victim.kill()
    return f"killed {victim.name}"


@nemesis("kill a coordinator")
async def _kill_coordinator(fleet: Fleet, chance: random.Random) -> str:
    victim = chance.choice(fleet.coordinators)
    victim.kill()
    return f"killed {victim.name}"


@nemesis("kill a NATS server")
async def _kill_broker(fleet: Fleet, chance: random.Random) -> str:
    victim = chance.choice(fleet.brokers)
    await victim.kill()
    return f"killed {victim.name}"


@nemesis("kill the control plane's leader")
async def _kill_controller(fleet: Fleet, chance: random.Random) -> str:
    victim = await fleet.controller()
    victim.kill()
    return f"killed {victim.name}, the controller"


@nemesis("kill a log's leader")
async def _kill_leader(fleet: Fleet, chance: random.Random) -> str:
    stream = f"HEADRACE_LOG_{chance.randrange(SHARDS)}"
    victim = await fleet.stream_leader(stream)
    await victim.kill()
    return f"killed {victim.name}, which led {stream}"


@nemesis("kill one of each kind")
async def _kill_three(fleet: Fleet, chance: random.Random) -> str:
    programs = [chance.choice(fleet.coordinators), chance.choice(fleet.workers)]
    broker = chance.choice(fleet.brokers)
    await fleet.power_off(programs, [broker])
    return f"killed {programs[0].name}, {programs[1].name} and {broker.name}"


@nemesis("power-off of everything", hold_s=(0.1, 1.0))
async def _power_off(fleet: Fleet, chance: random.Random) -> str:
    await fleet.power_off([*fleet.coordinators, *fleet.workers], fleet.brokers)
    return "killed every process"


# -- SIGSTOP ---------------------------------------------------------------------------------------


@nemesis("freeze a worker", hold_s=(1.0, 6.0))
async def _freeze_worker(fleet: Fleet, chance: random.Random) -> str:
    victim = chance.choice(fleet.workers)
    victim.freeze()
    return f"froze {victim.name}"


@nemesis("freeze a coordinator", hold_s=(1.0, 6.0))
async def _freeze_coordinator(fleet: Fleet, chance: random.Random) -> str:
    victim = chance.choice(fleet.coordinators)
    victim.freeze()
    return f"froze {victim.name}"


@nemesis("freeze a NATS server", hold_s=(1.0, 6.0))
async def _freeze_broker(fleet: Fleet, chance: random.Random) -> str:
    victim = chance.choice(fleet.brokers)
    victim.pause()
    return f"froze {victim.name}"


# -- orders ----------------------------------------------------------------------------------------


@nemesis("rolling restart of the NATS servers", hold_s=(0.1, 0.5))
async def _roll(fleet: Fleet, chance: random.Random) -> str:
    order = chance.sample(fleet.brokers, len(fleet.brokers))
    for broker in order:
        await broker.stop()
        await broker.start(wait=False)
        if not await broker.wait_ready(30.0):
            raise AssertionError(f"NATS server {broker.name} is not healthy 30 s after a restart")
    return f"restarted {', '.join(broker.name for broker in order)}"


@nemesis("scale workers down and up", hold_s=(0.5, 2.0))
async def _scale(fleet: Fleet, chance: random.Random) -> str:
    victim = chance.choice(fleet.workers)
    if chance.random() < 0.5:
        victim.send(signal.SIGTERM)
        how = "SIGTERM"
    else:
        try:
            async with await fleet.client() as client:
                await client.drain(victim.name, grace_ms=1_000)
        except HeadraceError as error:
            raise AssertionError(f"{victim.name} was not drained: {error}") from error
        how = "a drain"
    code = await victim.ended()
    if code:
        raise AssertionError(f"{victim.name} ended with {code} after {how}")
    return f"stopped {victim.name} by {how}"


# -- the network -----------------------------------------------------------------------------------


@nemesis("unplug a worker", hold_s=(1.0, 6.0), needs="namespaces")
async def _unplug_worker(fleet: Fleet, chance: random.Random) -> str:
    victim = chance.choice(list(GROUPS))
    fleet.network.unplug(victim)
    return f"unplugged {victim}"


@nemesis("unplug a coordinator", hold_s=(1.0, 6.0), needs="namespaces")
async def _unplug_coordinator(fleet: Fleet, chance: random.Random) -> str:
    victim = chance.choice(COORDINATORS)
    fleet.network.unplug(victim)
    return f"unplugged {victim}"


@nemesis("unplug a NATS server", hold_s=(1.0, 6.0), needs="namespaces")
async def _unplug_broker(fleet: Fleet, chance: random.Random) -> str:
    victim = chance.choice(BROKERS)
    fleet.network.unplug(victim)
    return f"unplugged {victim}"


@nemesis("part a NATS server from the others", hold_s=(1.0, 6.0), needs="namespaces")
async def _part_brokers(fleet: Fleet, chance: random.Random) -> str:
    victim = chance.choice(BROKERS)
    for other in BROKERS:
        if other != victim:
            fleet.network.cut(victim, other)
    return f"{victim} hears no other NATS server, and is heard by clients"


@nemesis("lose packets one way", hold_s=(1.0, 6.0), needs="namespaces")
async def _one_way(fleet: Fleet, chance: random.Random) -> str:
    source = chance.choice([*COORDINATORS, *GROUPS])
    for broker in BROKERS:
        fleet.network.cut(broker, source, both=False)
    return f"{source} is heard, and hears nothing"


@nemesis("split the cluster", hold_s=(1.0, 6.0), needs="namespaces")
async def _split(fleet: Fleet, chance: random.Random) -> str:
    small = [chance.choice(group) for group in (BROKERS, COORDINATORS, list(GROUPS))]
    for one in small:
        for other in (*BROKERS, *COORDINATORS, *GROUPS):
            if other not in small:
                fleet.network.cut(one, other)
    return f"{', '.join(small)} are parted from the rest"


@nemesis("bad links", hold_s=(2.0, 5.0), needs="namespaces")
async def _bad_links(fleet: Fleet, chance: random.Random) -> str:
    victims = chance.sample([*BROKERS, *COORDINATORS, *GROUPS], 3)
    loss, delay_ms = chance.uniform(0.02, 0.15), chance.randint(10, 80)
    done = [fleet.network.spoil(victim, loss=loss, delay_ms=delay_ms) for victim in victims]
    return f"{', '.join(victims)}: {done[0]}"


# -- clocks ----------------------------------------------------------------------------------------


@nemesis("turn a coordinator's clock", hold_s=(2.0, 7.0))
async def _turn_coordinator(fleet: Fleet, chance: random.Random) -> str:
    return _turned(fleet, chance.choice(COORDINATORS), chance)


@nemesis("turn a worker's clock", hold_s=(2.0, 5.0))
async def _turn_worker(fleet: Fleet, chance: random.Random) -> str:
    return _turned(fleet, chance.choice(list(GROUPS)), chance)


def _turned(fleet: Fleet, victim: str, chance: random.Random) -> str:
    offset_s = chance.choice([-3600, -60, -4, 4, 60, 3600])
    fleet.turn(victim, offset_s)
    return f"clock of {victim} turned by {offset_s:+d} s"


# -- disks -----------------------------------------------------------------------------------------


@nemesis("fill a NATS server's disk", hold_s=(2.0, 5.0), needs="disk")
async def _fill(fleet: Fleet, chance: random.Random) -> str:
    assert fleet.disk is not None
    await asyncio.to_thread(fleet.disk.fill)
    return f"no byte is left on the disk of {fleet.brokers[-1].name}"


# -- several ---------------------------------------------------------------------------------------


@nemesis("two at once", hold_s=(1.0, 5.0))
async def _two(fleet: Fleet, chance: random.Random) -> str:
    """Two others, the second one while the first one lasts."""
    able = [n for n in NEMESES.values() if n.name not in ALONE and not fleet.lacks(n.needs)]
    first, second = chance.sample(able, 2)
    did = await first.harm(fleet, chance)
    await asyncio.sleep(chance.uniform(0.0, 1.5))
    return f"{did}; {await second.harm(fleet, chance)}"
