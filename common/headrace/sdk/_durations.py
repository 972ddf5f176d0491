"""Lengths of time as users write them: ``days(3)``, a `timedelta`, or seconds."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TypeAlias, cast

from headrace.errors import InvalidRequest

Duration: TypeAlias = timedelta | float
"""A `timedelta`, or a number of seconds."""

DAYS_MAX = 366 * 100
"""A century: later times are mistakes."""


def milliseconds(count: float) -> timedelta:
    """Return so many milliseconds."""
    return timedelta(milliseconds=count)


def seconds(count: float) -> timedelta:
    """Return so many seconds."""
    return timedelta(seconds=count)


def minutes(count: float) -> timedelta:
    """Return so many minutes."""
    return timedelta(minutes=count)


def hours(count: float) -> timedelta:
    """Return so many hours."""
    return timedelta(hours=count)


def days(count: float) -> timedelta:
    """Return so many days of 24 hours."""
    return timedelta(days=count)


def weeks(count: float) -> timedelta:
    """Return so many weeks."""
    return timedelta(weeks=count)


def to_ms(duration: Duration) -> int:
    """Return *duration* in milliseconds, rounded up. Raises `InvalidRequest`.

    What is negative, no number, or longer than a century is refused.
    """
    value = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if not isinstance(cast("object", value), int | float) or not 0 <= value <= DAYS_MAX * 86_400:
        raise InvalidRequest(f"not a duration: {duration!r} (seconds, or a timedelta)")
    return math.ceil(value * 1_000 - 1e-6)
