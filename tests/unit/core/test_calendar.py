"""When cron expressions fire: time zones, changes of the clock, and what is far away."""

from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from headrace.coordinator.core import calendar

BERLIN = "Europe/Berlin"


def ms(text: str) -> int:
    """``2026-03-29T03:00+02:00`` -> ms since the epoch."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def shown(times: list[int], zone: str = "UTC") -> list[str]:
    return [
        datetime.fromtimestamp(time / 1000, ZoneInfo(zone)).isoformat(timespec="minutes")
        for time in times
    ]


def after(cron: str, zone: str, text: str, count: int) -> list[str]:
    return shown(calendar.times_after(cron, zone, ms(text), limit=count), zone)


def test_a_time_zone_is_kept_to() -> None:
    assert after("30 5 * * 1-5", BERLIN, "2026-03-27T00:00+01:00", 3) == [
        "2026-03-27T05:30+01:00",
        "2026-03-30T05:30+02:00",
        "2026-03-31T05:30+02:00",
    ]


def test_a_skipped_time_is_the_first_instant_after_the_gap() -> None:
    assert after("30 2 * * *", BERLIN, "2026-03-28T12:00+01:00", 2) == [
        "2026-03-29T03:00+02:00",
        "2026-03-30T02:30+02:00",
    ]


def test_a_time_that_comes_twice_counts_once() -> None:
    assert after("30 2 * * *", BERLIN, "2026-10-24T12:00+02:00", 2) == [
        "2026-10-25T02:30+02:00",
        "2026-10-26T02:30+01:00",
    ]
    # Asked in the second pass: the first is over, and does not come back.
    assert after("30 2 * * *", BERLIN, "2026-10-25T02:10+01:00", 1) == ["2026-10-26T02:30+01:00"]


def test_an_hour_of_every_hour_goes_by_elapsed_time() -> None:
    found = calendar.times_after("0 * * * *", BERLIN, ms("2026-10-25T00:30+02:00"), limit=5)
    assert {later - earlier for earlier, later in pairwise(found)} == {3_600_000}


def test_the_first_time_is_after_and_never_at() -> None:
    when_ms = ms("2026-01-01T00:00+00:00")
    assert calendar.next_after("0 0 * * *", "UTC", when_ms) == when_ms + 86_400_000
    assert calendar.next_after("0 0 * * *", "UTC", when_ms - 1) == when_ms


@pytest.mark.parametrize("cron", ["0 0 30 2 *", "0 0 31 4 *"])
def test_what_never_comes_is_zero(cron: str) -> None:
    assert calendar.problem(cron, "UTC") != "" or calendar.next_after(cron, "UTC", 0) == 0


@pytest.mark.parametrize("after_ms", [253_402_300_799_000, 10**18, -(10**18)])
def test_times_out_of_any_calendar_are_none(after_ms: int) -> None:
    assert calendar.next_after("* * * * *", "UTC", after_ms) in (0, after_ms // 60_000 * 60_000)


@pytest.mark.parametrize("cron", ["*/7 * * * *", "30 2 * * *", "0 0 1 * *", "15 1,2,3 * * *"])
@pytest.mark.parametrize("until", ["2026-10-25T02:40+01:00", "2026-03-29T03:00+02:00"])
def test_the_newest_is_the_last_that_going_forward_finds(cron: str, until: str) -> None:
    since = calendar.next_after(cron, BERLIN, ms(until) - 40 * 86_400_000)
    times = calendar.times_after(cron, BERLIN, since - 1, until_ms=ms(until), limit=100_000)
    assert calendar.newest_until(cron, BERLIN, ms(until), since_ms=since) == times[-1]


@pytest.mark.parametrize(
    ("cron", "zone", "said"),
    [
        ("* * * *", "UTC", "five fields"),
        ("61 * * * *", "UTC", "no cron expression"),
        ("x" * 300, "UTC", "five fields"),
        ("* * * * *", "Mars/Olympus", "unknown time zone"),
        ("* * * * *", "../etc/passwd", "unknown time zone"),
    ],
)
def test_what_cannot_be_is_said(cron: str, zone: str, said: str) -> None:
    assert said in calendar.problem(cron, zone)
    assert calendar.problem("*/5 2-4 * jan mon", BERLIN) == ""
