"""Workflow commands in a step's output, and the files that a step writes. Pure.

The syntax is that of GitHub Actions ("Workflow commands", "Environment files"):
``::name key=value,key=value::message`` lines, and ``NAME=value`` or ``NAME<<MARK`` blocks.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

ANNOTATIONS_MAX: Final = 50
MESSAGE_CHARS_MAX: Final = 4_000
_COMMAND: Final = re.compile(r"^\s*::([A-Za-z][\w-]*)(?:\s+([^:]*(?::(?!:)[^:]*)*))?::(.*)$")
_LEVELS: Final = {"error": "error", "warning": "warning", "notice": "notice"}
_NUMBERS: Final = {
    "line": "line",
    "endLine": "end_line",
    "col": "column",
    "endColumn": "end_column",
}
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_NAME_CHARS_MAX: Final = 256
ASSIGNMENTS_MAX: Final = 1_000
"""Of one output or environment file."""

DISABLED: Final = {"set-env": "$GITHUB_ENV", "add-path": "$GITHUB_PATH"}
"""Commands that GitHub has switched off for good, since output can be forged: what to write to."""
IGNORED: Final = frozenset(("add-matcher", "remove-matcher", "save-state"))
"""Commands of GitHub's that mean nothing here."""
KNOWN: Final = frozenset(
    (*_LEVELS, *DISABLED, *IGNORED, "debug", "group", "endgroup", "add-mask", "stop-commands",
     "set-output", "echo")
)  # fmt: skip
"""A line that begins with any other word is output."""


class Command(msgspec.Struct, frozen=True):
    """One ``::name …::message`` line."""

    name: str
    properties: dict[str, str]
    message: str


def parse_command(line: str) -> Command | None:
    """Return the command that *line* is, or None for ordinary output."""
    found = _COMMAND.match(line)
    if found is None:
        return None
    name, raw, message = found.groups()
    # Of an unknown name it may be the end of a `stop-commands`; who asks decides.
    properties: dict[str, str] = {}
    for part in (raw or "").split(","):
        key, equals, value = part.partition("=")
        if equals:
            properties[key.strip().lower()] = _unescape(value, property_value=True)
    return Command(name.lower(), properties, _unescape(message))


def annotation(command: Command) -> dict[str, Any] | None:
    """Return an `error`, `warning` or `notice` command as an annotation."""
    level = _LEVELS.get(command.name)
    if level is None:
        return None
    made: dict[str, Any] = {"level": level, "message": command.message[:MESSAGE_CHARS_MAX]}
    for key in ("file", "title"):
        if command.properties.get(key):
            made[key] = command.properties[key][:1_000]
    for key, name in _NUMBERS.items():
        value = command.properties.get(key.lower(), "")
        if value.isascii() and value.isdigit():
            made[name] = int(value[:9])
    return made


class BadFile(Exception):
    """A step wrote something that is no assignment into one of its files."""


def parse_assignments(text: str) -> dict[str, str]:
    """Return the values in an output or environment file, the last one of each name.

    Raises `BadFile` with the reason.
    """
    values: dict[str, str] = {}
    lines = text.removeprefix("\ufeff").split("\n")
    place = 0
    while place < len(lines):
        line = lines[place].removesuffix("\r")
        place += 1
        if not line:
            continue
        equals, marker = line.find("="), line.find("<<")
        if marker >= 0 and (equals < 0 or marker < equals):
            name, mark = line[:marker], line[marker + 2 :]
            if not mark:
                raise BadFile(f"{line!r}: no delimiter after '<<'")
            block: list[str] = []
            while place < len(lines) and lines[place].removesuffix("\r") != mark:
                block.append(lines[place])
                place += 1
            if place == len(lines):
                raise BadFile(f"{name!r}: no line {mark!r} that ends its value")
            place += 1
            value = "\n".join(block)
        elif equals >= 0:
            name, value = line[:equals], line[equals + 1 :]
        else:
            raise BadFile(f"{line[:200]!r} is neither NAME=value nor NAME<<DELIMITER")
        name = name.strip()
        _check(name, value)
        values[name] = value
        if len(values) > ASSIGNMENTS_MAX:
            raise BadFile(f"over {ASSIGNMENTS_MAX} names")
    return values


def _check(name: str, value: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadFile(
            f"{name[:200]!r} is no name (a letter or '_', then letters, digits, '_', '-')"
        )
    if len(name) > _NAME_CHARS_MAX:
        raise BadFile(f"the name {name[:40]!r}… is over {_NAME_CHARS_MAX} characters")
    if "\0" in value:
        raise BadFile(f"the value of {name!r} holds a NUL character")


def _unescape(text: str, *, property_value: bool = False) -> str:
    text = text.replace("%0D", "\r").replace("%0A", "\n")
    if property_value:
        text = text.replace("%3A", ":").replace("%2C", ",")
    return text.replace("%25", "%")
