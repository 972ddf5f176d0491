"""Processes that an earlier life of this worker left behind when it was killed.

Their steps are given to others by now: what still runs of them must die before this life takes
work. They are told by two variables that every process of a step inherits; where there is no
``/proc`` (macOS), nothing can be told and nothing is done.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

FOLDER: Final = "HEADRACE_WORKER_DIR"
"""The data folder: its lock makes sure that no other life is using it."""
LIFE: Final = "HEADRACE_WORKER_LIFE"
"""The incarnation."""


def mark(data_dir: Path, incarnation: str) -> None:
    """Let all processes started from now on be known as this life's."""
    os.environ[FOLDER] = str(data_dir)
    os.environ[LIFE] = incarnation


def kill_orphans(data_dir: Path, incarnation: str) -> int:
    """Kill what other lives on *data_dir* left; return how many processes that was.

    Blocks: reads all of `/proc`. The caller holds the folder's lock.
    """
    own = {os.getpid(), os.getppid()}
    wanted = f"{FOLDER}={data_dir}".encode()
    ours = f"{LIFE}={incarnation}".encode()
    killed = 0
    for pid, variables in _environments():
        if pid in own or wanted not in variables or ours in variables:
            continue
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
        killed += 1
    if killed:
        log.warning("killed processes of an earlier life", extra={"processes": killed})
    return killed


def _environments() -> Iterator[tuple[int, list[bytes]]]:
    try:
        entries = os.listdir("/proc")
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.isdigit():
            try:
                data = Path("/proc", entry, "environ").read_bytes()
            except OSError:
                # Gone meanwhile, or another user's.
                continue
            yield int(entry), data.split(b"\0")
