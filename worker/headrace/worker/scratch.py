"""Folders of steps that are nobody's business: scripts, files for outputs, artifacts being packed.

They lie in one folder a process, below the system's temporary one. A worker that was killed leaves
its folder behind; the next one to need such a folder removes it. That its owner is gone is known by
a lock, which ends with the process, whatever has ended that, and in whichever container it was.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Final

PREFIX: Final = "headrace-scratch-"
_LOCK: Final = "owner.lock"


class Scratch:
    """The folder of one process, made when it is first needed. Thread-safe."""

    def __init__(self, parent: Path | None = None) -> None:
        """*parent*: the system's temporary folder if not given."""
        self._parent = parent
        self._root: Path | None = None
        self._lock = -1
        self._pid = 0
        self._one_at_a_time = threading.Lock()

    def folder(self, purpose: str) -> Path:
        """Return a new folder, which the caller removes."""
        with self._one_at_a_time:
            if self._root is None or self._pid != os.getpid() or not self._root.is_dir():
                self._begin()
        assert self._root is not None
        return Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=self._root))

    def _begin(self) -> None:
        parent = self._parent or Path(tempfile.gettempdir())
        sweep(parent)
        # Under another name until it is locked: a sweeper must never find it without its owner.
        hidden = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
        lock = os.open(hidden / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        root = parent / hidden.name[1:]
        hidden.rename(root)
        self.close()
        self._root, self._lock, self._pid = root, lock, os.getpid()

    def close(self) -> None:
        """Remove what is left, unless it is that of the process that we were forked from."""
        root, self._root = self._root, None
        lock, self._lock = self._lock, -1
        if root is not None and self._pid == os.getpid():
            shutil.rmtree(root, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def sweep(parent: Path) -> list[Path]:
    """Remove the folders below *parent* whose process is gone; return them."""
    removed: list[Path] = []
    for root in parent.glob(f"{PREFIX}*"):
        try:
            lock = os.open(root / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            # Somebody else's, or just being removed.
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            shutil.rmtree(root, ignore_errors=True)
            removed.append(root)
        finally:
            os.close(lock)
    return removed


_ours = Scratch()
atexit.register(_ours.close)


def scratch_folder(purpose: str) -> Path:
    """Return a new folder of this process, which the caller removes; blocks for a moment."""
    return _ours.folder(purpose)
