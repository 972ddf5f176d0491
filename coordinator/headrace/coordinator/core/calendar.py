"""When a cron expression fires. A function of its arguments and of the machine's time zone data.

Only the owner of a schedule asks; the times that it found are logged, so that folding needs no
zone data. The rules for changes of the clock are those of Debian's cron (by cronsim): a time of
day that a change skips is the first instant after the gap; one that comes twice is the first of
the two; an hour or a minute written as ``*`` goes by elapsed time.

The library is loaded when the first schedule needs it: the embedded engine has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

TEXT_MAX = 200
BACK_MS = 3 * 3_600_000
"""Clocks change by less."""
_OUT_OF_RANGE = (OverflowError, ValueError, OSError, StopIteration)


def problem(cron: str, timezone: str) -> str:
    """Return what is wrong with an expression or a time zone; '' if nothing is."""
    if len(cron) > TEXT_MAX or len(cron.split()) != 5:
        return f"{cron!r:.80} is no cron expression of five fields"
    from cronsim import CronSim, CronSimError

    try:
        CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        return f"{cron!r} is no cron expression: {error}"
    try:
        _zone(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return f"unknown time zone {timezone!r:.80}"
    return ""


def next_after(cron: str, timezone: str, after_ms: int) -> int:
    """Return the first time after *after_ms* (ms since the epoch); 0: there is none."""
    return next(_times(cron, timezone, after_ms), 0)


def times_after(
    cron: str, timezone: str, after_ms: int, *, until_ms: int = 0, limit: int
) -> list[int]:
    """Return at most *limit* times after *after_ms* and (if given) not after *until_ms*."""
    found: list[int] = []
    for when_ms in _times(cron, timezone, after_ms):
        if len(found) >= limit or (until_ms and when_ms > until_ms):
            break
        found.append(when_ms)
    return found


def newest_until(cron: str, timezone: str, until_ms: int, *, since_ms: int) -> int:
    """Return the last time from *since_ms*, which is one of the times itself, to *until_ms*."""
    from cronsim import CronSim

    zone = _zone(timezone)
    try:
        # The library looks before the given moment, to the minute.
        moment = datetime.fromtimestamp(until_ms // 60_000 * 60 + 60, zone)
        for found in CronSim(cron, moment, reverse=True):
            when_ms = round(found.timestamp()) * 1_000
            if when_ms <= until_ms:
                break
        else:
            return since_ms
    except _OUT_OF_RANGE:
        return since_ms
    # Looking back may see other times than going forward where clocks change; a time is what
    # going forward finds.
    after_ms = max(since_ms - 1, when_ms - BACK_MS)
    times = times_after(cron, timezone, after_ms, until_ms=until_ms, limit=BACK_MS // 60_000 + 2)
    return times[-1] if times else since_ms


def _times(cron: str, timezone: str, after_ms: int) -> Iterator[int]:
    from cronsim import CronSim

    zone = _zone(timezone)
    try:
        moment = datetime.fromtimestamp(after_ms // 1_000, zone)
        for found in CronSim(cron, moment):
            when_ms = round(found.timestamp()) * 1_000
            # In the second pass through an hour that comes twice, the first one is over.
            if when_ms > after_ms:
                yield when_ms
                after_ms = when_ms
    except _OUT_OF_RANGE:
        return


@lru_cache(maxsize=256)
def _zone(timezone: str) -> tzinfo:
    # An own spelling, so that no file is needed for what nearly all schedules say.
    return UTC if timezone in ("", "UTC") else ZoneInfo(timezone)
