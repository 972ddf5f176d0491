"""Who this worker is: an id that lasts, and a fresh incarnation for each life."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.metadata
import logging
import os
import re
import secrets
import socket
from pathlib import Path
from time import monotonic
from typing import Final

from headrace.errors import Conflict, InvalidConfig
from headrace.messages import subjects

log = logging.getLogger(__name__)

LOCK_POLL_S: Final = 0.05
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9-]+")
_FILE: Final = "worker-id"


def release() -> str:
    """Return the version of the installed distribution."""
    try:
        return importlib.metadata.version("headrace")
    except importlib.metadata.PackageNotFoundError:
        return ""


def new_incarnation() -> str:
    """Return a name that no other life of any worker has."""
    return secrets.token_hex(6)


def stable_id(configured: str, data_dir: Path) -> str:
    """Return the configured id, or the one kept in *data_dir* (made from the host's name at first).

    Raises `InvalidConfig` on an id that cannot stand in a subject.
    """
    if configured:
        if not subjects.valid_name(configured):
            raise InvalidConfig("worker.id", f"{configured!r} is not [A-Za-z0-9_-]{{1,128}}")
        return configured
    path = data_dir / _FILE
    try:
        kept = path.read_text().strip()
    except FileNotFoundError:
        kept = ""
    if subjects.valid_name(kept):
        return kept
    host = _FOREIGN.sub("-", socket.gethostname())[:64].strip("-") or "worker"
    made = f"{host}-{secrets.token_hex(3)}"
    scratch = path.with_name(f".{_FILE}.{os.getpid()}")
    scratch.write_text(made + "\n")
    scratch.replace(path)
    return made


def worker_folder(data_dir: str) -> Path:
    """Return the folder below *data_dir* that belongs to one worker; made if it is not there."""
    folder = Path(data_dir).absolute() / "worker"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class DataDirLock:
    """Keeps two live workers out of one data folder; gone with the process, however it ends."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "worker.lock"
        self._descriptor = -1

    async def acquire_within(self, wait_s: float) -> None:
        """Take it once another process has let it go, which may be about to end.

        Raises `Conflict` when that takes longer than *wait_s*.
        """
        until_s, told = monotonic() + wait_s, False
        while True:
            try:
                return self.acquire()
            except Conflict:
                if monotonic() >= until_s:
                    raise
                if not told:
                    folder = {"folder": str(self._path.parent)}
                    log.warning("another worker has the data folder, waiting", extra=folder)
                    told = True
            await asyncio.sleep(LOCK_POLL_S)

    def acquire(self) -> None:
        """Take it; twice is fine. Raises `Conflict` when another process has it."""
        if self._descriptor >= 0:
            return
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise Conflict(
                f"another worker uses {self._path.parent}: give each its own --data-dir"
            ) from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Let it go; twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
