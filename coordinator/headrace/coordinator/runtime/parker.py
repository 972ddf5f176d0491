"""Parks the runs of one shard that only wait: an owner's between its ticks, or a standby's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from headrace.coordinator.core import Machine, Parking, ParkingPolicy, ShardState
from headrace.telemetry import Clock

LOOK_S = 0.25
PAUSE_S = 0.005
"""Between two pieces of a round: a third of the loop's time at most is for parking."""

POLICY = ParkingPolicy()
"""Of all shards of this process; simulated worlds are eager."""


def may_park(machine: Machine) -> bool:
    """Tell whether nobody has records in hand: neither events that are not split into entries yet,
    nor a snapshot on its way."""
    return not machine.dirty and machine.copying is None


async def park_led(machine: Machine, clock: Clock) -> None:
    """Park runs of the shard that *machine* leads, until cancelled."""
    parking = Parking(machine.state, POLICY)
    while True:
        more = may_park(machine) and parking.sweep(clock.now_ms())
        await asyncio.sleep(PAUSE_S if more else LOOK_S)


async def park_followed(state: Callable[[], ShardState | None], clock: Clock) -> None:
    """Park runs of what a standby has folded (*state*, which may be replaced), until cancelled."""
    parking: Parking | None = None
    known: ShardState | None = None
    while True:
        found = state()
        if found is not known:
            known, parking = found, Parking(found, POLICY) if found is not None else None
        more = parking is not None and parking.sweep(clock.now_ms())
        await asyncio.sleep(PAUSE_S if more else LOOK_S)


async def resume(machine: Machine) -> None:
    """Derive what a leader needs, in pieces: the process has other shards, and heartbeats."""
    for _ in machine.resuming():
        await asyncio.sleep(0)
