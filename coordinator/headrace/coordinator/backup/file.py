"""The file of a backup: a tar of parts, and behind them the manifest that names each by its hash.

Written to a temporary name beside its own and renamed when all of it is on disk, so that a file
under its name is whole. Whoever reads it checks every part before using any. No part is larger
than one value, one run's history or one snapshot; nothing larger is ever in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import msgspec

from headrace.errors import HeadraceError

FORMAT: Final = 1
"""Of the file. A reader refuses a higher one; within one, only parts and fields are added."""
HEAD: Final = "headrace-backup.json"
"""The first part: what a reader of any format must know."""
MANIFEST: Final = "manifest.json"
"""The last part."""
PART_BYTES: Final = 4 * 1024 * 1024
"""Small things share parts of about this size."""
_ZLIB_LEVEL: Final = 1


class BrokenBackup(HeadraceError):
    """A file is no backup, or is torn, or was changed, or is of a newer format."""

    code = "broken-backup"
    exit_code = 3

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}")


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What stands at the beginning of every file."""

    format: int
    release: str
    """Of the `flowctl` that wrote it."""
    feature_level: int
    """A restore needs a release that knows this level."""


class ShardPart(msgspec.Struct, frozen=True, kw_only=True):
    """One shard, up to where it is in the file."""

    shard: int
    level: str
    """journal or snapshot; shards of level memory are not in a file."""
    epoch: int = 0
    """Its owner's, when the backup was taken."""
    position: int = 0
    """Of the last log entry in the file; 0: none."""
    snapshot_position: int = 0
    entries: int = 0
    """Log entries behind the snapshot."""


class PartInfo(msgspec.Struct, frozen=True, array_like=True):
    """One part, by its hash."""

    name: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a file holds."""

    head: Head
    id: str
    """Of this backup."""
    time_ms: int
    """When the cluster stood still; since 1970."""
    cluster: str
    """When the log of the system shard was made: tells clusters apart."""
    release: str
    """Of the coordinators."""
    layout: dict[str, int]
    archive: str
    """Kind of the archive that it was taken of; a file fits any kind."""
    shards: list[ShardPart]
    held_ms: int = 0
    """For how long shards did not hear of each other, at most."""
    counts: dict[str, int]
    """runs, plans, blobs, events; large values are blobs."""
    parts: list[PartInfo]


class BackupWriter:
    """Writes a file. Use: ``with BackupWriter(path, head) as out``; then `add`, `finish`.

    Left without `finish`, nothing is left behind. Raises `OSError` of the file system.
    """

    def __init__(self, path: Path, head: Head) -> None:
        self._path, self._head = path, head
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._parts: list[PartInfo] = []
        self._file: IO[bytes] | None = None
        self._tar: tarfile.TarFile | None = None
        self._bundles: dict[str, tuple[list[Any], int, int]] = {}
        """Kind -> what is gathered for its next part, its bytes, parts so far."""

    def __enter__(self) -> BackupWriter:
        # Whoever can read the file can read every input and output of every run.
        fd = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(fd, "wb")
        self._tar = tarfile.open(mode="w", fileobj=self._file, format=tarfile.PAX_FORMAT)
        self._store(HEAD, msgspec.json.encode(self._head))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._partial.unlink(missing_ok=True)

    def add(self, name: str, data: bytes) -> None:
        """Store *data*, compressed, as the part *name*."""
        self._store(name, zlib.compress(data, _ZLIB_LEVEL))

    def gather(self, kind: str, item: Any, size: int) -> None:
        """Store *item*, of about *size* bytes, in a part ``<kind>/<number>`` with others."""
        items, held, number = self._bundles.get(kind, ([], 0, 0))
        items.append(item)
        self._bundles[kind] = (items, held + size, number)
        if held + size >= PART_BYTES:
            self.close_bundle(kind)

    def close_bundle(self, kind: str) -> None:
        """Write what was gathered of *kind* so far."""
        items, _, number = self._bundles.get(kind, ([], 0, 0))
        if items:
            self.add(f"{kind}/{number:06d}", msgspec.msgpack.encode(items))
            self._bundles[kind] = ([], 0, number + 1)

    def finish(self, make: Callable[[Head, list[PartInfo]], Manifest]) -> Manifest:
        """Write the manifest, bring all to disk, and give the file its name."""
        for kind in list(self._bundles):
            self.close_bundle(kind)
        assert self._file is not None
        assert self._tar is not None
        manifest = make(self._head, list(self._parts))
        self._store(MANIFEST, msgspec.json.encode(manifest))
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self._partial.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return manifest

    def _store(self, name: str, data: bytes) -> None:
        assert self._tar is not None
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o600
        self._tar.addfile(member, io.BytesIO(data))
        self._parts.append(PartInfo(name, len(data), hashlib.sha256(data).hexdigest()))


class BackupReader:
    """A file whose every part has been compared with its hash: made by `open`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: Path, *, feature_level: int) -> BackupReader:
        """Read all of the file once; raises `BrokenBackup`, and `OSError` if there is none."""
        found: list[PartInfo] = []
        last = b""
        try:
            for name, data in _members(path):
                if not found:
                    _check_head(path, name, data, feature_level)
                found.append(PartInfo(name, len(data), hashlib.sha256(data).hexdigest()))
                last = data
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise BrokenBackup(path, f"it is torn, or no backup ({error})") from error
        if not found or found[-1].name != MANIFEST:
            raise BrokenBackup(path, "it is torn: its end is missing; take the backup again")
        try:
            manifest = msgspec.json.decode(last, type=Manifest)
        except msgspec.MsgspecError as error:
            raise BrokenBackup(path, f"its manifest cannot be read ({error})") from error
        _compare(path, manifest.parts, found[:-1])
        return cls(path, manifest)

    def parts(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Yield (name, data) of the parts below *prefix*, in the order of the file."""
        hashes = {part.name: part.sha256 for part in self.manifest.parts}
        with contextlib.closing(_members(self.path, prefix)) as members:
            for name, data in members:
                # It was right when the file was opened; a disk may think otherwise now.
                if hashlib.sha256(data).hexdigest() != hashes.get(name):
                    raise BrokenBackup(self.path, f"part {name} has changed meanwhile")
                yield name, zlib.decompress(data)

    def items(self, kind: str) -> Iterator[Any]:
        """Yield what was gathered under *kind*, as plain data."""
        for _, data in self.parts(f"{kind}/"):
            yield from msgspec.msgpack.decode(data)


def _members(path: Path, prefix: str = "") -> Generator[tuple[str, bytes]]:
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.name.startswith(prefix):
                file = tar.extractfile(member)
                if file is None:
                    raise ValueError(f"{member.name} is no file")
                data = file.read()
                if len(data) != member.size:
                    raise ValueError(f"{member.name} is cut off")
                yield member.name, data


def _check_head(path: Path, name: str, data: bytes, feature_level: int) -> None:
    if name != HEAD:
        raise BrokenBackup(path, "it is no backup of `flowctl cluster backup`")
    try:
        head = msgspec.json.decode(data, type=Head)
    except msgspec.MsgspecError as error:
        raise BrokenBackup(path, f"its head cannot be read ({error})") from error
    if head.format > FORMAT:
        raise BrokenBackup(
            path,
            f"it has format {head.format}, written by release {head.release}; this release "
            f"reads formats up to {FORMAT}: use release {head.release} or a later one",
        )
    if head.feature_level > feature_level:
        raise BrokenBackup(
            path,
            f"it needs feature level {head.feature_level}, this release has {feature_level}: "
            f"use release {head.release} or a later one",
        )


def _compare(path: Path, wanted: list[PartInfo], found: list[PartInfo]) -> None:
    if wanted == found:
        return
    there = {part.name: part for part in found}
    for part in wanted:
        got = there.pop(part.name, None)
        if got != part:
            state = "is missing" if got is None else "is not what was written (its hash differs)"
            raise BrokenBackup(path, f"part {part.name} {state}; take another backup")
    extra = next(iter(there), "the order of its parts")
    raise BrokenBackup(path, f"it holds what its manifest does not name: {extra}")
