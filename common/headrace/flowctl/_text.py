"""Text for people: times, durations, tables, colours. Pure; "now" is an argument."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from headrace.errors import InvalidRequest

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

COLOURS = {
    "COMPLETED": "32",
    "FAILED": "31",
    "CANCELLED": "33",
    "UNKNOWN": "35",
    "RUNNING": "36",
    "DISPATCHED": "36",
    "WAITING": "33",
    "SKIPPED": "2",
    "PENDING": "2",
    "READY": "2",
    "Online": "32",
    "Busy": "36",
    "Draining": "33",
    "Offline": "31",
}


def rfc3339(time_ms: int) -> str | None:
    """Return a time in UTC with milliseconds, or None for 0 (not yet)."""
    if not time_ms:
        return None
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time_ms % 1000:03d}Z"


def duration(length_ms: int) -> str:
    """Return a length of time in at most two units: `850ms`, `12.3s`, `4m05s`, `2h10m`, `3d4h`."""
    length_ms = max(length_ms, 0)
    if length_ms < 1_000:
        return f"{length_ms}ms"
    if length_ms < 60_000:
        return f"{length_ms / 1000:.1f}s"
    seconds = length_ms // 1000
    if seconds < 3_600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86_400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86_400}d{seconds % 86_400 // 3600}h"


def span(started_ms: int, finished_ms: int, now_ms: int) -> str:
    """Return how long something took, or has taken until now; empty before it has started."""
    if not started_ms:
        return ""
    return duration((finished_ms or now_ms) - started_ms)


def parse_duration(text: str) -> int:
    """Return the milliseconds of `90s`, `1h30m`, `2d`. Raises `InvalidRequest`."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidRequest(f"not a duration: {text!r} (examples: 90s, 15m, 1h30m, 2d)")
    return sum(int(float(number) * _UNITS_MS[unit]) for number, unit in parts)


def parse_since(text: str, now_ms: int) -> int:
    """Return the time that `1h` (ago) or an RFC 3339 time means. Raises `InvalidRequest`."""
    try:
        return max(now_ms - parse_duration(text), 0)
    except InvalidRequest:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequest(
            f"not a time: {text!r} (examples: 1h, 2d, 2026-01-31T12:00:00Z)"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def parse_at(text: str, now_ms: int) -> tuple[int | None, int]:
    """Return the event number or the time (ms) that `--at` names; the other is None, or 0.

    An event is a number; a time is RFC 3339, or `-10m` (ago). Raises `InvalidRequest`.
    """
    if text.isascii() and text.isdigit():
        return int(text), 0
    try:
        at_ms = parse_since(text.removeprefix("-"), now_ms)
    except InvalidRequest as error:
        raise InvalidRequest(
            f"neither an event nor a time: {text!r} (examples: 12, -10m, 2026-01-31T12:00:00Z)"
        ) from error
    if at_ms > now_ms:
        raise InvalidRequest(f"{text} has not come yet")
    return None, at_ms


def plain(text: str) -> str:
    """Return *text* without control characters: what a step wrote must not drive a terminal."""
    return _CONTROL.sub("", _ANSI.sub("", text))


def one_line(text: str, width: int = 100) -> str:
    """Return the beginning of *text* on one line."""
    flat = " ".join(plain(text.replace("\n", " ")).split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def paint(state: str, *, colour: bool, text: str = "") -> str:
    """Return *text* (or the state's name) in the state's colour."""
    shown = text or state
    code = COLOURS.get(state)
    return f"\x1b[{code}m{shown}\x1b[0m" if colour and code else shown


def facts(found: Mapping[str, Any]) -> list[str]:
    """Return a line for each value that there is, behind its name, the values in a column."""
    width = max(map(len, found))
    return [
        f"{name:<{width}}  {_fact(value)}"
        for name, value in found.items()
        if value not in (None, "", [], {})
    ]


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, colour: bool = False
) -> list[str]:
    """Return aligned lines, two blanks between columns; cells that name a state are coloured."""
    widths = [len(title) for title in header]
    for row in rows:
        for column, cell in enumerate(row):
            widths[column] = max(widths[column], len(cell))
    lines: list[str] = []
    for row in (header, *rows):
        cells: list[str] = []
        for column, cell in enumerate(row):
            padded = cell if column == len(row) - 1 else cell.ljust(widths[column])
            cells.append(paint(cell.split(" ", 1)[0], colour=colour, text=padded))
        lines.append("  ".join(cells).rstrip())
    return lines
