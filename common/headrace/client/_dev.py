"""The note that `flowctl dev` leaves, by which other commands on this machine find it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import msgspec


class DevServer(msgspec.Struct, frozen=True, kw_only=True):
    """A development server of this user on this machine."""

    server: str
    """`nats://127.0.0.1:4222`"""
    dir: str = ""
    """Absolute path of its data."""
    pid: int = 0
    started_ms: int = 0


def dev_file() -> Path:
    """Return the path of the note: below `XDG_STATE_HOME`, else `~/.local/state`."""
    root = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(root) / "headrace" / "dev.json"


def read_dev() -> DevServer | None:
    """Return the last development server; None if there is no note or it cannot be read.

    The server need not run any more: nothing but a connection can tell.
    """
    try:
        return msgspec.json.decode(dev_file().read_bytes(), type=DevServer)
    except (OSError, msgspec.MsgspecError):
        return None


def write_dev(server: DevServer) -> None:
    """Leave the note, readable by this user only; readers see the old one or the new one."""
    path = dev_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".dev-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(server))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def clear_dev(pid: int) -> None:
    """Remove the note if it is that of *pid*; for a `dev` that ends in order."""
    current = read_dev()
    if current is not None and current.pid == pid:
        with contextlib.suppress(OSError):
            dev_file().unlink()
