"""Positions of all shards that fit together: asks the coordinators to stand still for a moment.

See `runtime.holding` for why. Nothing is taken on trust: a place counts only if the log itself
says that its owner was still the owner, after the position was read.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable
from typing import Final

import msgspec

from headrace.bus import Bus, Message
from headrace.coordinator.runtime.holding import Doubt, GoOn, Hold, Order, Place, Places, Where
from headrace.coordinator.shardlog.jetstream import last_epoch
from headrace.errors import InvalidRequest, Unavailable
from headrace.messages import decode, encode, subjects

ANSWER_S: Final = 5.0
HOLD_MS: Final = 8_000
TRIES: Final = 5
PAUSE_S: Final = 0.5


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """Where each shard's log is cut off, so that all of them together were once the cluster."""

    time_ms: int
    places: dict[int, Place]
    release: str
    layout: dict[str, int]
    archive: str
    feature_level: int = 0
    """The highest of the owners' records."""
    held_ms: int = 0
    """For how long shards did not hear of each other, at most."""


async def look(bus: Bus) -> Cut:
    """Return what the first coordinator that answers says of the cluster. Raises `Unavailable`."""
    return _cut(await _ask(bus, Where(1), whole=False))


async def take_cut(bus: Bus) -> Cut:
    """Return positions that fit together. Raises `Unavailable` when the cluster does not settle."""
    reason = ""
    for _ in range(TRIES):
        hold, begun = secrets.token_hex(8), time.monotonic()
        try:
            held = _cut(_all(await _ask(bus, Hold(1, hold, HOLD_MS)), "stand still"))
            cut = _cut(_all(await _ask(bus, Where(1, hold)), "say where its log ends"))
            _same_owners(held, cut)
            cut = await _confirmed(bus, cut)
        except Unavailable as error:
            reason = str(error)
        else:
            bus.publish(subjects.BACKUP, encode(GoOn(1, hold)))
            held_ms = int((time.monotonic() - begun) * 1_000)
            return msgspec.structs.replace(cut, held_ms=held_ms)
        bus.publish(subjects.BACKUP, encode(GoOn(1, hold)))
        await asyncio.sleep(PAUSE_S)
    raise Unavailable(f"{reason}; is every shard served (`flowctl cluster status`)?")


def send_doubt(bus: Bus) -> None:
    """Have every owner ask its log whether it still is the owner."""
    bus.publish(subjects.BACKUP, encode(Doubt(1)))


async def _ask(bus: Bus, order: Order, *, whole: bool = True) -> list[Places]:
    """Ask every coordinator, until *whole*: all shards, else: anybody has answered.

    Raises `Unavailable` when nobody does within `ANSWER_S`.
    """
    found: list[Places] = []
    enough = asyncio.Event()

    def collect(message: Message) -> None:
        try:
            found.append(decode(Places, message.data))
        except InvalidRequest:
            return  # of a release that speaks otherwise: its shards will be missing
        if not (whole and _missing(found)):
            enough.set()

    inbox = bus.new_inbox()
    subscription = bus.subscribe(inbox, collect)
    try:
        if not bus.publish(subjects.BACKUP, encode(order), reply=inbox):
            raise Unavailable("not connected to the broker")
        async with asyncio.timeout(ANSWER_S):
            await enough.wait()
    except TimeoutError:
        if not found:
            raise Unavailable(
                f"no coordinator has answered within {ANSWER_S:g} s: start the coordinators, of a "
                "release that knows backups"
            ) from None
    finally:
        subscription.close()
    return found


def _missing(found: Iterable[Places]) -> list[int]:
    """Return the shards that nobody has told of."""
    told = {place.shard for one in found for place in one.places}
    return [
        shard for one in found for shard in range(sum(one.layout.values())) if shard not in told
    ]


def _all(found: list[Places], what: str) -> list[Places]:
    if missing := _missing(found):
        raise Unavailable(f"shard {missing[0]} does not {what}")
    return found


def _cut(found: list[Places]) -> Cut:
    layouts = {tuple(one.layout.items()) for one in found}
    if len(layouts) > 1:
        raise Unavailable(f"coordinators differ in their shards: {sorted(layouts)}")
    places: dict[int, Place] = {}
    for one in found:
        for place in one.places:
            # A deposed owner may not know of it yet.
            if place.shard not in places or places[place.shard].epoch < place.epoch:
                places[place.shard] = place
    first = found[0]
    return Cut(
        time_ms=int(time.time() * 1_000),
        places=places,
        release=min(one.release for one in found),
        layout=first.layout,
        archive=first.archive,
    )


def _same_owners(held: Cut, cut: Cut) -> None:
    for shard, place in cut.places.items():
        if place.epoch != held.places[shard].epoch:
            raise Unavailable(f"shard {shard} has changed its owner meanwhile")


async def _confirmed(bus: Bus, cut: Cut) -> Cut:
    """Raise `Unavailable` unless each owner still was the owner when it told its position."""
    level = 0
    for shard, place in cut.places.items():
        if place.level != "journal":
            continue
        epoch, record = await last_epoch(bus, shard)
        if epoch != place.epoch:
            raise Unavailable(f"shard {shard} has changed its owner meanwhile")
        level = max(level, record.feature_level)
    return msgspec.structs.replace(cut, feature_level=level)
