"""Where the cluster is: flags, then `FLOWCTL_*`, then the context, then the last `flowctl dev`."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.errors import InvalidConfig, InvalidRequest, NotFound

DEFAULT_SERVER = "nats://127.0.0.1:4222"
ACCESS = (
    "creds_file",
    "nkey_file",
    "tls_ca_file",
    "tls_cert_file",
    "tls_key_file",
    "tls_hostname",
)
"""How to log in and whom to trust: keys of a context, and with FLOWCTL_ before them variables."""
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


@dataclass(frozen=True, slots=True)
class Target:
    """The cluster and namespace to talk to."""

    server: str
    namespace: str
    found: str
    """How the server was found, for messages."""
    access: dict[str, str] = field(default_factory=dict)
    """Those of `ACCESS` that are said."""

    @property
    def shown(self) -> str:
        """The server for messages: without a login."""
        from headrace.config import shown_addresses

        return shown_addresses(self.server)


def find_target(settings: Settings) -> Target:
    """Return where to go. Raises `NotFound` for an unknown context, `InvalidConfig`."""
    environ = os.environ
    name = settings.context or environ.get("FLOWCTL_CONTEXT", "")
    config = read_config()
    context = context_named(config, name) if name else config.contexts.get(config.current, {})
    namespace = (
        settings.namespace
        or environ.get("FLOWCTL_NAMESPACE")
        or context.get("namespace")
        or "default"
    )
    access = {key: environ.get(f"FLOWCTL_{key.upper()}", "") for key in ACCESS}
    access = {key: value for key, value in access.items() if value}
    # What a context says of logins is for its own server only.
    kept = {key: context[key] for key in ACCESS if context.get(key)} | access
    if settings.server:
        return Target(settings.server, namespace, "--server", access)
    # A context that the user names on this command line goes before the environment's server.
    if settings.context and context.get("server"):
        return Target(context["server"], namespace, f"context {name}", kept)
    if environ.get("FLOWCTL_SERVER"):
        return Target(environ["FLOWCTL_SERVER"], namespace, "FLOWCTL_SERVER", access)
    if context.get("server"):
        return Target(context["server"], namespace, f"context {name or config.current}", kept)
    if config.current and not name:
        # It names no context: guessing a server instead could reach another cluster.
        context_named(config, config.current)
    from headrace.client._dev import read_dev

    dev = read_dev()
    if dev is not None:
        return Target(dev.server, namespace, f"the last `flowctl dev`, in {dev.dir}")
    return Target(DEFAULT_SERVER, namespace, "the default, as no `flowctl dev` was found", access)


@dataclass(slots=True)
class Config:
    """The contents of the configuration file."""

    current: str
    contexts: dict[str, dict[str, str]]


def config_file() -> Path:
    """Return the path of the configuration file."""
    root = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(root) / "flowctl" / "config.toml"


def read_config() -> Config:
    """Return the configuration, empty if there is no file. Raises `InvalidConfig`."""
    path = config_file()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Config("", {})
    except OSError as error:
        raise InvalidConfig(str(path), error.strerror or str(error)) from error
    import tomllib

    try:
        raw = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfig(str(path), str(error)) from error
    return _checked(path, raw)


def _checked(path: Path, raw: dict[str, Any]) -> Config:
    unknown = set(raw) - {"current", "contexts"}
    if unknown:
        raise InvalidConfig(str(path), f"unknown key {sorted(unknown)[0]!r}")
    current, contexts = raw.get("current", ""), raw.get("contexts", {})
    if not isinstance(current, str) or not isinstance(contexts, dict):
        raise InvalidConfig(str(path), "`current` is a name and `contexts` a table")
    for name, context in contexts.items():
        if not isinstance(context, dict):
            raise InvalidConfig(str(path), f"contexts.{name} is not a table")
        for key, value in context.items():
            if key not in ("server", "namespace", *ACCESS) or not isinstance(value, str):
                raise InvalidConfig(f"{path}: contexts.{name}.{key}", "unknown key or no text")
    return Config(current, contexts)


def write_config(config: Config) -> None:
    """Replace the configuration file in one step, readable by this user only."""
    lines = [f"current = {_quoted(config.current)}", ""]
    for name, context in sorted(config.contexts.items()):
        lines.append(f"[contexts.{_quoted(name)}]")
        lines += [f"{key} = {_quoted(value)}" for key, value in sorted(context.items())]
        lines.append("")
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


def context_named(config: Config, name: str) -> dict[str, str]:
    """Return a context. Raises `NotFound`, which names those that there are."""
    if name not in config.contexts:
        known = ", ".join(sorted(config.contexts)) or "none"
        raise NotFound(f"no context {name!r} in {config_file()} (there are: {known})")
    return config.contexts[name]


def valid_context_name(name: str) -> bool:
    """Tell whether *name* may name a context."""
    return _BARE.fullmatch(name) is not None


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return (
        '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
    )
