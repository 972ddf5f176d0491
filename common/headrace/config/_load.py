"""From file, environment and flags to a `Config`; each value remembers where it came from."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import msgspec

from headrace.config._schema import Config
from headrace.errors import InvalidConfig

DEFAULT_FILE = "headrace.toml"
PREFIX = "HEADRACE_CFG_"
"""Only variables with this prefix are ours, and all of them must be known keys."""

FILE_BYTES_MAX = 1024 * 1024


class _Given(msgspec.Struct, frozen=True):
    section: str
    key: str
    value: Any
    source: str
    text: bool = False
    """The value is text that stands for a number, a truth value or a list."""


def load(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Return the configuration, complete and checked.

    *path* None: `headrace.toml` in the current folder, if there is one. *overrides* are flags,
    ``{"worker.slots": 4}``; a value of None is a flag that was not given. Raises `InvalidConfig`
    that names the key and the source of the first thing that is wrong; of names that nobody knows
    it tells all at once.
    """
    types = section_types()
    all_given = [
        *_from_file(path),
        *_from_environ(environ or {}),
        *_from_flags(overrides or {}),
    ]
    _refuse_unknown(all_given, types)
    values: dict[str, dict[str, Any]] = {section: {} for section in types}
    sources: dict[str, str] = {}
    for given in all_given:
        field = types[given.section][given.key]
        values[given.section][given.key] = _convert(given, field)
        sources[f"{given.section}.{given.key}"] = given.source
    try:
        return Config(
            **{section: _section(section)(**fields) for section, fields in values.items()}
        )
    except InvalidConfig as error:
        # A rule between keys; say where the key's value was set, if it was.
        if source := sources.get(error.key):
            raise InvalidConfig(error.key, f"{error.reason} (from {source})") from error
        raise


def section_types() -> dict[str, dict[str, Any]]:
    """Return the type of every key, by section, in the order of the schema."""
    return {
        name: get_type_hints(_section(name), include_extras=True) for name in get_type_hints(Config)
    }


def _section(name: str) -> Any:
    return get_type_hints(Config)[name]


def _from_file(path: Path | None) -> Iterator[_Given]:
    file = path if path is not None else Path(DEFAULT_FILE)
    try:
        with file.open("rb") as stream:
            raw = stream.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        if path is None:
            return
        raise InvalidConfig("file", f"{file} does not exist") from None
    except OSError as error:
        raise InvalidConfig("file", f"{file} cannot be read: {error.strerror}") from error
    if len(raw) > FILE_BYTES_MAX:
        raise InvalidConfig("file", f"{file} is larger than {FILE_BYTES_MAX} bytes")
    try:
        document = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfig("file", f"{file} is not TOML: {error}") from error
    for section, table in document.items():
        if not isinstance(table, dict):
            raise InvalidConfig(section, f"must stand in a [section] (from {file})")
        if not table and section not in section_types():
            yield _Given(section, "", None, str(file))
        for key, value in table.items():
            yield _Given(section, key, value, str(file))


def _from_environ(environ: Mapping[str, str]) -> Iterator[_Given]:
    for variable in sorted(environ):
        if not variable.startswith(PREFIX):
            continue
        section, separator, key = variable.removeprefix(PREFIX).lower().partition("__")
        if not separator:
            raise InvalidConfig(variable, f"is not {PREFIX}<SECTION>__<KEY> (from the environment)")
        yield _Given(section, key, environ[variable], f"variable {variable}", text=True)


def _from_flags(overrides: Mapping[str, Any]) -> Iterator[_Given]:
    for name, value in overrides.items():
        if value is None:
            continue
        section, _, key = name.partition(".")
        yield _Given(section, key, value, "a flag")


def _convert(given: _Given, kind: Any) -> Any:
    """Return the value as *kind*, within its range."""
    value = given.value
    if given.text and get_origin(kind) is tuple:
        value = _list_of(given)
    try:
        return msgspec.convert(value, kind, strict=not given.text)
    except msgspec.ValidationError as error:
        # msgspec names types and ranges, never the value: a password stays out of the message.
        reason = str(error).partition(" - at `$")[0]
        raise InvalidConfig(
            f"{given.section}.{given.key}", f"{reason} (from {given.source})"
        ) from error


def _list_of(given: _Given) -> list[Any]:
    text = given.value.strip()
    if not text.startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise InvalidConfig(
            f"{given.section}.{given.key}", f"is not a JSON list (from {given.source})"
        ) from error
    assert isinstance(parsed, list)
    return parsed


def _refuse_unknown(all_given: Iterable[_Given], types: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise one `InvalidConfig` that tells of all: who has misspelt one has often misspelt more."""
    known = [f"{section}.{key}" for section, keys in types.items() for key in keys]
    found: dict[str, InvalidConfig] = {}
    for given in all_given:
        if given.section not in types:
            error = _unknown("section", given.section, types, given.source)
        elif given.key not in types[given.section]:
            error = _unknown("key", f"{given.section}.{given.key}", known, given.source)
        else:
            continue
        found.setdefault(str(error), error)
    if found:
        first, *more = found.values()
        told = [first.reason, *(f"{error.key}: {error.reason}" for error in more)]
        raise InvalidConfig(first.key, "; ".join(told))


def _unknown(what: str, name: str, known: Iterable[str], source: str) -> InvalidConfig:
    candidates = list(known)
    # First the right key in the wrong section, then a misspelt one.
    key = name.partition(".")[2]
    close = [candidate for candidate in candidates if key and candidate.partition(".")[2] == key]
    close = close or difflib.get_close_matches(name, candidates, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return InvalidConfig(name, f"unknown {what}{hint} (from {source})")
