"""Which cluster is meant: said, else by `FLOWCTL_*`, the context, the last `flowctl dev`."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.client._dev import read_dev
from headrace.config import shown_addresses
from headrace.errors import InvalidConfig, NotFound

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
        return shown_addresses(self.server)


def find_target(*, server: str = "", context: str = "", namespace: str = "") -> Target:
    """Return where to go; what is said here goes first.

    Raises `NotFound` for an unknown context, `InvalidConfig`.
    """
    environ = os.environ
    name = context or environ.get("FLOWCTL_CONTEXT", "")
    config = read_config()
    entry = context_named(config, name) if name else config.contexts.get(config.current, {})
    space = namespace or environ.get("FLOWCTL_NAMESPACE") or entry.get("namespace") or "default"
    access = {key: environ.get(f"FLOWCTL_{key.upper()}", "") for key in ACCESS}
    access = {key: value for key, value in access.items() if value}
    # What a context says of logins is for its own server only.
    kept = {key: entry[key] for key in ACCESS if entry.get(key)} | access
    if server:
        return Target(server, space, "--server", access)
    # A context that the user names on this command line goes before the environment's server.
    if context and entry.get("server"):
        return Target(entry["server"], space, f"context {name}", kept)
    if environ.get("FLOWCTL_SERVER"):
        return Target(environ["FLOWCTL_SERVER"], space, "FLOWCTL_SERVER", access)
    if entry.get("server"):
        return Target(entry["server"], space, f"context {name or config.current}", kept)
    if config.current and not name:
        # It names no context: guessing a server instead could reach another cluster.
        context_named(config, config.current)
    dev = read_dev()
    if dev is not None:
        return Target(dev.server, space, f"the last `flowctl dev`, in {dev.dir}")
    return Target(DEFAULT_SERVER, space, "the default, as no `flowctl dev` was found", access)


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


def context_named(config: Config, name: str) -> dict[str, str]:
    """Return a context. Raises `NotFound`, which names those that there are."""
    if name not in config.contexts:
        known = ", ".join(sorted(config.contexts)) or "none"
        raise NotFound(f"no context {name!r} in {config_file()} (there are: {known})")
    return config.contexts[name]
