"""How long a fenced owner stays away from its shard."""

from __future__ import annotations

import asyncio

from headrace.coordinator.runtime.retreat import FIRST_S, JITTER, LAST_S, Retreat

BOUND_S = 30.0


class ViewOf:
    """A view that moves when it is told to."""

    def __init__(self) -> None:
        self.number = 7
        self.waits: list[float] = []
        self._moved = asyncio.Event()

    def move(self) -> None:
        self.number += 1
        self._moved.set()

    async def newer(self, *, timeout_s: float) -> None:
        self.waits.append(timeout_s)
        self._moved.clear()
        await self._moved.wait()


def test_a_view_that_stands_still_lets_nobody_back_sooner_than_the_time_before():
    retreat, now_s, found = Retreat(ViewOf(), lambda: 0.0), 100.0, []
    for _ in range(9):
        found.append(retreat.away_s(now_s))
        now_s += found[-1] + 2.0  # it has the shard for two seconds each time
    assert found == [FIRST_S * 2**n for n in range(6)] + [LAST_S] * 3


def test_chance_parts_those_that_stay_away_from_each_other():
    assert Retreat(ViewOf(), lambda: 0.99).away_s(0.0) > Retreat(ViewOf(), lambda: 0.1).away_s(0.0)
    longest = Retreat(ViewOf(), lambda: 1.0)
    for _ in range(20):
        assert longest.away_s(0.0) <= LAST_S * (1 + JITTER)


def test_a_newer_view_begins_anew():
    views = ViewOf()
    retreat = Retreat(views, lambda: 0.0)
    assert [retreat.away_s(0.0) for _ in range(3)] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    views.move()
    assert retreat.away_s(10.0) == FIRST_S


def test_who_has_led_for_long_begins_anew():
    retreat = Retreat(ViewOf(), lambda: 0.0)
    assert [retreat.away_s(0.0), retreat.away_s(2.0)] == [FIRST_S, 2 * FIRST_S]
    assert retreat.away_s(10.0 + LAST_S) == FIRST_S


async def test_it_ends_with_a_newer_view():
    views = ViewOf()
    waiting = asyncio.create_task(Retreat(views, lambda: 0.0).wait())
    await asyncio.sleep(0)
    assert (views.waits, waiting.done()) == ([FIRST_S], False)
    views.move()
    await asyncio.wait_for(waiting, BOUND_S)
