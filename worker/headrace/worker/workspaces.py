"""Folders that steps work in: one for each job, or a fresh one for each step.

::

    <data_dir>/workspaces/<namespace>/<run>/<job path>#<restart>/   a job's, kept for its steps
    <data_dir>/steps/<incarnation>/<n>/                             one step's, deleted after it

Which workspaces are still wanted only the owner knows; here they are bounded: by age since their
last use, and by number. Steps' folders of earlier lives are deleted at start.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from headrace.errors import InvalidRequest

log = logging.getLogger(__name__)

_SEGMENT_MAX: Final = 120
_SAFE: Final = "[]#-_.,=+@ "


class WorkspaceLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the disk old workspaces may take."""

    keep_ms: int = 24 * 3_600_000
    """Since the last step that used it."""
    count_max: int = 1_000


def segment(name: str) -> str:
    """Return *name* as one safe, readable folder name; different names stay different."""
    safe = quote(name, safe=_SAFE)
    if safe in ("", ".", ".."):
        raise InvalidRequest(f"{name!r} cannot name a workspace")
    if len(safe) > _SEGMENT_MAX:
        digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
        safe = f"{safe[: _SEGMENT_MAX - 17]}-{digest}"
    return safe


class Workspaces:
    """The folders below one data folder, for one life of a worker."""

    def __init__(self, data_dir: Path, incarnation: str, limits: WorkspaceLimits) -> None:
        self._root = data_dir / "workspaces"
        self._steps = data_dir / "steps"
        self._own = self._steps / segment(incarnation)
        self._limits = limits
        self._numbers = itertools.count()

    def for_job(self, key: str) -> Path:
        """Return the folder of a job, made if needed. Raises `InvalidRequest` on a strange key."""
        path = self.job_folder(key)
        path.mkdir(parents=True, exist_ok=True)
        os.utime(path)
        return path

    def job_folder(self, key: str) -> Path:
        """Return where the folder of a job is. Raises `InvalidRequest` on a strange key."""
        # <namespace>/<run>/<job path>#<restart>: the job's path may contain slashes of its own.
        namespace, _, rest = key.partition("/")
        run, _, job = rest.partition("/")
        return self._root / segment(namespace) / segment(run) / segment(job)

    def for_step(self) -> Path:
        """Return a fresh folder; the caller deletes it with `discard`."""
        path = self._own / str(next(self._numbers))
        path.mkdir(parents=True, mode=0o700)
        return path

    def discard(self, path: Path) -> None:
        """Delete a folder; what cannot be deleted is logged and left to the next sweep."""
        failed: list[str] = []
        shutil.rmtree(path, onerror=lambda _function, name, _error: failed.append(str(name)))
        if failed:
            log.warning("workspace not deleted", extra={"path": str(path), "left": len(failed)})

    def sweep(self, *, now_ms: int, in_use: Collection[Path] = ()) -> int:
        """Delete what is left of earlier lives and workspaces over the limits; return how many.

        Blocks: call it in a thread.
        """
        stale = [path for path in _children(self._steps) if path != self._own]
        aged: list[tuple[float, Path]] = []
        for namespace in _children(self._root):
            for run in _children(namespace):
                for job in _children(run):
                    if job not in in_use:
                        aged.append((_modified_ms(job), job))
        aged.sort(reverse=True)
        for place, (modified_ms, path) in enumerate(aged):
            if place >= self._limits.count_max or now_ms - modified_ms > self._limits.keep_ms:
                stale.append(path)
        for path in stale:
            self.discard(path)
            if path.parent != self._steps:
                _remove_empty(path.parent)
                _remove_empty(path.parent.parent)
        return len(stale)

    def close(self) -> None:
        """Delete this life's step folders."""
        if self._own.exists():
            self.discard(self._own)


def _children(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    except FileNotFoundError:
        return []


def _modified_ms(path: Path) -> float:
    try:
        return path.stat().st_mtime * 1000
    except FileNotFoundError:
        return 0.0


def _remove_empty(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        # Not empty: another job of the run is kept.
        return
