"""A small disk of its own for one process, that can be filled: an ext4 image in a loop device."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from support.rounds.network import NotPossible

BYTES = 8 * 2**30
"""Of the file system; its image is sparse. Streams reserve gigabytes, which they seldom use."""
COMMAND_S = 30.0
PIECES = (2**28, 2**22, 2**16, 2**12)


class Disk:
    """Mounted at *folder*; `close` unmounts it and removes the image."""

    def __init__(self, folder: Path) -> None:
        """Raises `NotPossible`, having removed what it had made."""
        self.folder = folder
        self._image = folder.with_name(f"{folder.name}.disk")
        self._ballast = folder / "ballast"
        if os.geteuid():
            raise NotPossible("not root")
        for program in ("mkfs.ext4", "mount", "umount"):
            if shutil.which(program) is None:
                raise NotPossible(f"no program {program}")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._image.open("wb") as image:
                image.truncate(BYTES)
            # No blocks are set aside for root: full is full.
            _run("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))
            _run("mount", "-o", "loop", str(self._image), str(folder))
        except NotPossible:
            self._image.unlink(missing_ok=True)
            raise

    def fill(self) -> None:
        """Take every byte that is left."""
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            end = 0
            for piece in PIECES:
                with _until_full():
                    while True:
                        os.posix_fallocate(descriptor, end, piece)
                        end += piece
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def free(self) -> bool:
        """Give it back; returns whether the disk was full."""
        was_full = self._ballast.exists()
        self._ballast.unlink(missing_ok=True)
        return was_full

    def close(self) -> None:
        """Unmount, even if somebody still has a file open there, and remove the image."""
        with contextlib.suppress(NotPossible):
            _run("umount", "--lazy", str(self.folder))
        self._image.unlink(missing_ok=True)


@contextlib.contextmanager
def _until_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def _run(*command: str) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=True)
    except subprocess.CalledProcessError as error:
        said = f"{error.stdout}{error.stderr}".strip()
        raise NotPossible(f"{' '.join(command)}: {said}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotPossible(f"{' '.join(command)}: {error}") from error
