"""Formatters for the standard library's log records, and the one call that installs them.

A message is constant text; facts are in ``extra=``. Both formats print them all.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

from headrace.telemetry._family import Counter

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""Attributes of every record; all others came by ``extra=``."""

_RESERVED = frozenset({"time", "level", "logger", "message", "exception", "stack"})

_VALUE_CHARS_MAX = 4_096
"""Longer values are cut: one line of a log is not the place for a payload."""


_about: ContextVar[Callable[[], Mapping[str, Any]] | None] = ContextVar("log_about", default=None)


log_about: Final[Callable[[Callable[[], Mapping[str, Any]]], object]] = _about.set
"""Put what the given function returns on every line that is logged from here on in this context.

That is the running task, and the tasks and threads that it starts. It is called only when a
line is written, so it should return nothing once its subject is over. (No function of its own:
this is done for every attempt.)
"""


def _fields(record: logging.LogRecord, static: Mapping[str, Any]) -> dict[str, Any]:
    about = _about.get()
    own = {k: v for k, v in record.__dict__.items() if k not in _OWN}
    found = {**static, **(about() if about is not None else {}), **own}
    return {(f"{key}_" if key in _RESERVED else key): _plain(v) for key, v in found.items()}


def _plain(value: Any) -> Any:
    """Return a JSON value for *value*; never fails."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, list | tuple | set | frozenset | dict):
        # Through text: nested values may be anything, endless, or circular.
        try:
            text = json.dumps(
                sorted(value, key=repr) if isinstance(value, set | frozenset) else value,
                default=str,
            )
        except (TypeError, ValueError):
            return _cut(repr(value))
        return json.loads(text) if len(text) <= _VALUE_CHARS_MAX else _cut(text)
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= _VALUE_CHARS_MAX else text[:_VALUE_CHARS_MAX] + "…"


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, the fields, exception."""

    def __init__(self, static: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._static = dict(static or {})

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record, self._static),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """``time LEVEL logger: message key=value``; an exception follows on lines of its own."""

    def __init__(self, static: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._static = dict(static or {})

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        name = record.name.removeprefix("headrace.")
        message = _one_line(record.getMessage())
        text = f"{_time(record)} {record.levelname:<7} {name}: {message}"
        for key, value in _fields(record, self._static).items():
            text += f" {key}={_shown(value)}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if record.stack_info:
            text += "\n" + self.formatStack(record.stack_info)
        return text


def _one_line(text: str) -> str:
    """Return *text* so that nobody can forge a second line with it."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _shown(value: Any) -> str:
    if isinstance(value, str) and value and not any(c.isspace() or c in "\"='" for c in value):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def setup_logging(
    *,
    level: str = "info",
    format: Literal["text", "json"] = "text",
    stream: TextIO | None = None,
    static: Mapping[str, Any] | None = None,
) -> logging.Handler:
    """Send every logger's records to *stream* (default: stderr); called once, by the process.

    *static* fields (role, id) stand on each line. Calling it again replaces the handler that it
    installed before; return the handler.
    """
    handler = _Installed(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter(static) if format == "json" else TextFormatter(static))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Installed)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    # The clients of broker and database log each reconnect themselves, with tracebacks; ours says
    # it once, with the address.
    for name in ("nats", "asyncpg"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # These write addresses and headers of requests, and what is stored: inputs and outputs of
    # steps, whole, and perhaps a secret in them.
    for name in ("httpx", "httpcore", "aiosqlite"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    return handler


class CountingHandler(logging.Handler):
    """Counts records by level, and writes nothing."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self._counter = counter

    def emit(self, record: logging.LogRecord) -> None:
        """Count one."""
        self._counter.inc(record.levelname.lower())


class _Installed(logging.StreamHandler[TextIO]):
    """Ours, to be told from handlers of tests and hosts."""
