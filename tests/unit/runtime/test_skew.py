"""The broker's clock against ours."""

import logging

import pytest

from headrace.coordinator.runtime import skew as module
from headrace.coordinator.runtime.skew import Skew, SteadyClock, skew_text
from headrace.errors import Unreachable


class FakeClock:
    def __init__(self):
        self.ms, self.s = 1_000_000, 5.0

    def now_ms(self):
        return self.ms

    def monotonic(self):
        return self.s


@pytest.fixture
def clock():
    return FakeClock()


def make(clock, broker_ms, changes):
    return Skew(clock, broker_ms, ms_max=1_000, changed=lambda: changes.append(1))


async def test_half_of_the_round_trip_is_not_skew(clock):
    async def broker_ms():
        clock.s, clock.ms = clock.s + 0.4, clock.ms + 400
        return 1_000_200 - 300

    skew = make(clock, broker_ms, [])
    await skew.measure()
    assert skew.ms == 300
    assert not skew.excessive


async def test_slow_and_missing_answers_say_nothing(clock):
    answers = []

    async def broker_ms():
        clock.s += answers[0]
        if answers[0] == 0:
            raise Unreachable("away")
        return 1

    skew = make(clock, broker_ms, [])
    for took_s in (1.5, 0):
        answers[:] = [took_s]
        await skew.measure()
        assert skew.ms == 0


async def test_passing_the_limit_is_told_once_and_loudly(clock, caplog):
    changes = []
    skew = make(clock, None, changes)
    with caplog.at_level(logging.INFO):
        for ms in (1_000, 1_001, -5_000, 900, -900):
            skew.note(ms)
    assert len(changes) == 2
    assert not skew.excessive
    levels = [record.levelname for record in caplog.records if record.name == module.__name__]
    assert levels == ["CRITICAL", "WARNING"]


def test_people_are_told_which_way():
    assert "c1 is 3.0 s ahead of the broker's (limit 2 s)" in skew_text("c1", 3_000, 2_000)
    assert "c1 is 3.0 s behind the broker's" in skew_text("c1", -3_000, 2_000)


# -- a steady clock --------------------------------------------------------------------------------


def test_a_steady_clock_goes_on_by_the_monotonic_one(clock):
    steady = SteadyClock(clock)
    clock.s += 2.5
    assert (steady.now_ms(), steady.monotonic()) == (1_002_500, clock.s)


async def test_a_jump_counts_once_the_broker_agrees(clock):
    broker = {"ms": 1_000_000}

    async def broker_ms():
        return broker["ms"]

    steady = SteadyClock(clock)
    skew = Skew(clock, broker_ms, ms_max=1_000, changed=lambda: None, agreed=steady.follow)
    clock.ms += 3_600_000
    assert steady.now_ms() == 1_000_000
    await skew.measure()
    assert skew.excessive
    assert steady.now_ms() == 1_000_000
    # The machine has slept: the wall clock is right, and the monotonic one has missed it.
    broker["ms"] += 3_600_000
    await skew.measure()
    assert not skew.excessive
    assert steady.now_ms() == 4_600_000
