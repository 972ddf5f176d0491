"""The notes that `flowctl dev` leaves, by which other commands on this machine find it.

One for each process, so that when one of several ends the others are still found.
"""

from __future__ import annotations

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


def dev_folder() -> Path:
    """Return the folder of the notes: below `XDG_STATE_HOME`, else `~/.local/state`."""
    root = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(root) / "headrace" / "dev"


def read_dev() -> DevServer | None:
    """Return the development server that was started last, one that still runs if there is one.

    None without a note that can be read. Whether the server answers only a connection can tell.
    """
    notes = _notes()
    living = [note for note in notes if _lives(note.pid)]
    return max(living or notes, key=lambda note: note.started_ms, default=None)


def dev_in(directory: Path) -> DevServer | None:
    """Return the development server that lives and has its data in *directory*, if it is known."""
    return next((n for n in _notes() if n.dir == str(directory) and _lives(n.pid)), None)


def write_dev(server: DevServer) -> None:
    """Leave a note, readable by this user only, and remove those of processes that are dead.

    Readers see the old one or the new one.
    """
    folder = dev_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for note in _notes():
        if not _lives(note.pid):
            clear_dev(note.pid)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".dev-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(server))
        Path(temporary).replace(_path(server.pid))
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def clear_dev(pid: int) -> None:
    """Remove the note of *pid*, if there is one; for a `dev` that ends in order."""
    _path(pid).unlink(missing_ok=True)


def _path(pid: int) -> Path:
    return dev_folder() / f"{pid}.json"


def _notes() -> list[DevServer]:
    found: list[DevServer] = []
    for path in dev_folder().glob("*.json"):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=DevServer))
        except (OSError, msgspec.MsgspecError):
            # Of another release, or gone meanwhile: as if it were not there.
            continue
    return found


def _lives(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
