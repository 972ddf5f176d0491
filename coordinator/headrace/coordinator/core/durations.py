"""Durations and moments as users write them in values that are known only at run time."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from headrace.errors import InvalidRequest

_UNITS_MS = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
DURATION_MS_MAX = 100 * 365 * 86_400_000


def parse_duration_ms(value: Any, *, unit_ms: int = 1_000) -> int:
    """Return *value* in ms: ``"1h30m"``, ``"500ms"``, or a number of *unit_ms* (seconds).

    Raises `InvalidRequest` for anything else, for a negative one and for more than 100 years.
    """
    if isinstance(value, str):
        text = value.strip().lower()
        try:
            value = float(text)
        except ValueError:
            parts = _PART.findall(text)
            if not parts or "".join(number + unit for number, unit in parts) != text:
                raise InvalidRequest(f"not a duration: {value!r} (write 90s, 1h30m, 3d)") from None
            return _checked(sum(float(number) * _UNITS_MS[unit] for number, unit in parts))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"not a duration: {value!r} (write 90s, 1h30m, 3d)")
    return _checked(value * unit_ms)


def _checked(value_ms: float) -> int:
    if not 0 <= value_ms <= DURATION_MS_MAX:
        raise InvalidRequest("a duration is from 0 to 100 years")
    return int(value_ms)


def moment_ms(text: str) -> int:
    """Return an RFC 3339 moment in ms since the epoch; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"not a time: {text!r} (write 2027-01-31T08:00:00Z)") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1_000)
