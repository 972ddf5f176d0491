"""Where artifacts are kept: in the cluster's object store, or in a folder."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from headrace.bus import Bus, SharedObjects
from headrace.errors import Conflict, NotFound
from headrace.messages import subjects


class BusArtifacts:
    """An `ArtifactStore` in the blob bucket: an artifact goes with its run's other large values."""

    def __init__(self, bus: Bus, *, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._bucket = SharedObjects(bus, subjects.BLOB_BUCKET, timeout_s=60.0)

    async def put(self, run: str, name: str, path: Path, *, overwrite: bool) -> None:
        """See `ArtifactStore`."""
        key = subjects.artifact(run, name)
        if not overwrite and await self._bucket.size_of(key) is not None:
            raise Conflict(f"run {run} has an artifact {name}")
        await self._bucket.put(key, await asyncio.to_thread(path.read_bytes))

    async def get(self, run: str, name: str, path: Path) -> None:
        """See `ArtifactStore`."""
        data = await self._bucket.get(subjects.artifact(run, name))
        await asyncio.to_thread(path.write_bytes, data)


class FileArtifacts:
    """An `ArtifactStore` in a folder: ``<namespace>/<run>/<name>.tar.gz``."""

    def __init__(self, folder: Path, *, bytes_max: int = 1024 * 1024 * 1024) -> None:
        self._folder, self.bytes_max = folder, bytes_max

    async def put(self, run: str, name: str, path: Path, *, overwrite: bool) -> None:
        """See `ArtifactStore`."""
        await asyncio.to_thread(self._put, self._place(run, name), path, overwrite)

    async def get(self, run: str, name: str, path: Path) -> None:
        """See `ArtifactStore`."""
        place = self._place(run, name)
        try:
            await asyncio.to_thread(shutil.copyfile, place, path)
        except FileNotFoundError as error:
            raise NotFound(f"run {run} has no artifact {name}") from error

    def _put(self, place: Path, path: Path, overwrite: bool) -> None:
        if not overwrite and place.exists():
            raise Conflict(f"{place} is there already")
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as scratch:
            copy = Path(shutil.copyfile(path, Path(scratch) / place.name))
            copy.replace(place)

    def _place(self, run: str, name: str) -> Path:
        namespace, run_id = subjects.split_key(run)
        return self._folder / namespace / run_id / f"{name}.tar.gz"
