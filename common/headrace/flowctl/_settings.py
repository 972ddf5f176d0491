"""Where the cluster is: flags, then `FLOWCTL_*`, then the context, then the last `flowctl dev`."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.errors import InvalidConfig, InvalidRequest

if TYPE_CHECKING:
    from headrace.client import Config, Target

TIMEOUT_S = 4.0
"""Within five seconds a user knows that the cluster cannot be reached; starting takes some, too."""
TIMEOUT_MS_MAX = 3_600_000
FORMATS = ("table", "wide", "json", "yaml", "name")
_BARE = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(slots=True)
class Settings:
    """What the shared options say; empty: not said."""

    server: str = ""
    context: str = ""
    namespace: str = ""
    output: str = ""

    @property
    def format(self) -> str:
        """The output format; raises `InvalidConfig` for an unknown one in the environment."""
        chosen = self.output or os.environ.get("FLOWCTL_OUTPUT") or "table"
        if chosen not in FORMATS:
            raise InvalidConfig("FLOWCTL_OUTPUT", f"{chosen!r} is none of {', '.join(FORMATS)}")
        return chosen


def connect_timeout_s() -> float:
    """Return how long the cluster may take to answer at first; raises `InvalidConfig`."""
    said = os.environ.get("FLOWCTL_TIMEOUT", "")
    if not said:
        return TIMEOUT_S
    from headrace.flowctl._text import parse_duration

    try:
        found_ms = parse_duration(said)
    except InvalidRequest as error:
        raise InvalidConfig("FLOWCTL_TIMEOUT", str(error)) from error
    if not 0 < found_ms <= TIMEOUT_MS_MAX:
        raise InvalidConfig("FLOWCTL_TIMEOUT", f"{said}: more than nothing, and at most 1h")
    return found_ms / 1_000


def find_target(settings: Settings) -> Target:
    """Return where to go. Raises `NotFound` for an unknown context, `InvalidConfig`."""
    from headrace import client

    return client.find_target(
        server=settings.server, context=settings.context, namespace=settings.namespace
    )


def write_config(config: Config) -> None:
    """Replace the configuration file in one step, readable by this user only."""
    lines = [f"current = {_quoted(config.current)}", ""]
    for name, context in sorted(config.contexts.items()):
        lines.append(f"[contexts.{_quoted(name)}]")
        lines += [f"{key} = {_quoted(value)}" for key, value in sorted(context.items())]
        lines.append("")
    from headrace.client import config_file

    path = config_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".config-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write("\n".join(lines))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def valid_context_name(name: str) -> bool:
    """Tell whether *name* may name a context."""
    return _BARE.fullmatch(name) is not None


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return (
        '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
    )
