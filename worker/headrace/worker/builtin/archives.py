"""Packing files into tar and zip files, and unpacking them with limits. Blocking: use a thread.

Nothing that an archive says is trusted: names that leave the folder, links out of it, devices,
and archives that grow beyond their limits are refused, and what was unpacked until then goes.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Final, Literal

import msgspec

from headrace.worker.handlers import HandlerError

Format = Literal["tar.gz", "tar", "zip"]
FILES_MAX: Final = 100_000
BYTES_MAX: Final = 1024 * 1024 * 1024
_CHUNK_BYTES: Final = 256 * 1024
_ENDINGS: Final[dict[str, Format]] = {
    ".tar.gz": "tar.gz",
    ".tgz": "tar.gz",
    ".tar": "tar",
    ".zip": "zip",
}

Stop = Callable[[], bool]
"""Asked between files: whether to give up."""


class Packed(msgspec.Struct, frozen=True):
    """What was packed or unpacked."""

    files: int
    size: int
    """Bytes: of the archive when packing, of all files together when unpacking."""


def format_of(path: str, chosen: str = "") -> Format:
    """Return the format of an archive. Raises `HandlerError` where neither name nor user says."""
    if chosen in ("tar.gz", "tar", "zip"):
        return chosen  # type: ignore[return-value]
    for ending, found in _ENDINGS.items():
        if path.lower().endswith(ending):
            return found
    text = f"{path}: give a `format`, or a name that ends in {', '.join(_ENDINGS)}"
    raise HandlerError("invalid-input", text, False)


def matching(base: Path, patterns: Iterable[str], *, files_max: int = FILES_MAX) -> list[Path]:
    """Return the files that *patterns* name below *base*, sorted; a folder stands for all in it.

    Patterns as in a shell, with ``**``; one that begins with ``!`` takes files out again. What is
    reached by a link to a folder does not count. Raises `HandlerError`.
    """
    root = base.resolve()
    found: dict[Path, None] = {}
    for pattern in patterns:
        wanted = pattern.removeprefix("!")
        for path in _named(root, wanted):
            for file in _below(path):
                if pattern.startswith("!"):
                    found.pop(file, None)
                else:
                    found[file] = None
                if len(found) > files_max:
                    raise HandlerError("too-large", f"over {files_max} files match", False)
    return sorted(found)


def pack(
    files: Sequence[Path],
    target: Path,
    form: Format,
    *,
    base: Path,
    bytes_max: int = 0,
    stop: Stop = lambda: False,
) -> Packed:
    """Write *files* into *target*, whole or not at all, by their names relative to *base*.

    *bytes_max* limits the archive; 0: no limit. Raises `HandlerError` and `OSError`.
    """
    root = base.resolve()
    names = [_name_in(root, path) for path in files]
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch_name = tempfile.mkstemp(dir=target.parent, prefix=".headrace-")
    scratch = Path(scratch_name)
    try:
        with os.fdopen(handle, "w+b") as file:
            for _ in _packing(file, form, zip(files, names, strict=True)):
                if stop():
                    raise HandlerError("cancelled", "stopped while packing")
                if bytes_max and file.tell() > bytes_max:
                    raise _too_large(target, bytes_max)
        size = scratch.stat().st_size
        if bytes_max and size > bytes_max:
            raise _too_large(target, bytes_max)
        scratch.chmod(0o644)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
    return Packed(len(files), size)


def unpack(
    archive: Path,
    folder: Path,
    form: Format,
    *,
    bytes_max: int = BYTES_MAX,
    files_max: int = FILES_MAX,
    stop: Stop = lambda: False,
) -> Packed:
    """Unpack *archive* into *folder*, which gets all of it or nothing new.

    Existing files are replaced. Raises `HandlerError` of type `unsafe-archive`, `too-large` or
    `invalid-archive`, and `OSError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Beside what is there, on the same file system: it is moved into its place at the end.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".headrace-") as name:
        scratch = Path(name)
        limits = _Limits(archive, bytes_max, files_max, stop)
        try:
            if form == "zip":
                _unzip(archive, scratch, limits)
            else:
                _untar(archive, scratch, form, limits)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
            text = f"{archive} is no {form} file, or a broken one: {error}"
            raise HandlerError("invalid-archive", text, False) from error
        except RuntimeError as error:
            # zipfile says so of encrypted files.
            raise HandlerError("invalid-archive", f"{archive}: {error}", False) from error
        _merge(scratch, folder)
        return Packed(limits.files, limits.bytes)


class _Limits:
    """Counts what comes out."""

    def __init__(self, archive: Path, bytes_max: int, files_max: int, stop: Stop) -> None:
        self.archive, self._bytes_max, self._files_max = archive, bytes_max, files_max
        self._stop = stop
        self.files = self.bytes = self._entries = 0

    def entry(self) -> None:
        """Count a file or a folder."""
        self._entries += 1
        if self._entries > self._files_max:
            raise HandlerError(
                "too-large", f"{self.archive} has over {self._files_max} files", False
            )
        if self._stop():
            raise HandlerError("cancelled", "stopped while unpacking")

    def copy(self, source: IO[bytes], target: Path) -> None:
        """Write a file, chunk by chunk: what headers say of sizes is not believed."""
        self.files += 1
        with target.open("wb") as file:
            while chunk := source.read(_CHUNK_BYTES):
                self.bytes += len(chunk)
                if self.bytes > self._bytes_max:
                    raise _too_large(self.archive, self._bytes_max)
                file.write(chunk)


def _untar(archive: Path, scratch: Path, form: Format, limits: _Limits) -> None:
    root = str(scratch)
    with tarfile.open(archive, "r:gz" if form == "tar.gz" else "r:") as tar:
        for member in tar:
            limits.entry()
            try:
                safe = tarfile.data_filter(member, root)
            except tarfile.FilterError as error:
                raise _unsafe(archive, member.name, str(error)) from error
            target = scratch / safe.name
            if safe.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if safe.issym():
                target.unlink(missing_ok=True)
                target.symlink_to(safe.linkname)
            elif safe.islnk():
                source = scratch / safe.linkname
                with source.open("rb") as content:
                    limits.copy(content, target)
            else:
                packed = tar.extractfile(safe)
                if packed is None:
                    raise _unsafe(archive, member.name, "it is no file")
                # A link of this name would lead the bytes elsewhere.
                target.unlink(missing_ok=True)
                limits.copy(packed, target)
                target.chmod(safe.mode & 0o755 | 0o600)
        _check_links(archive, scratch)


def _unzip(archive: Path, scratch: Path, limits: _Limits) -> None:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            limits.entry()
            name = member.filename
            parts = name.replace("\\", "/").split("/")
            if name.startswith(("/", "\\")) or ".." in parts or "\x00" in name or ":" in parts[0]:
                raise _unsafe(archive, name, "the name leaves the folder")
            mode = member.external_attr >> 16
            if mode and (mode & 0o170000) not in (0, 0o100000, 0o040000):
                raise _unsafe(archive, name, "it is neither a file nor a folder")
            target = scratch / "/".join(part for part in parts if part not in ("", "."))
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with file.open(member) as content:
                limits.copy(content, target)
            if mode & 0o111:
                target.chmod(0o755)


def _check_links(archive: Path, scratch: Path) -> None:
    """Refuse links that lead out once all are there: one alone may be harmless."""
    root = scratch.resolve()
    for folder, folders, files in os.walk(scratch):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise _unsafe(archive, name, "the link leads out of the folder")


def _merge(scratch: Path, folder: Path) -> None:
    for path in sorted(scratch.iterdir()):
        target = folder / path.name
        if path.is_dir() and not path.is_symlink():
            if target.is_symlink() or (target.exists() and not target.is_dir()):
                target.unlink()
            target.mkdir(exist_ok=True)
            _merge(path, target)
        else:
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            path.replace(target)


def _packing(file: IO[bytes], form: Format, entries: Iterable[tuple[Path, str]]) -> Iterator[None]:
    if form == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as made:
            for path, name in entries:
                made.write(path, name)
                yield
        return
    with tarfile.open(fileobj=file, mode="w:gz" if form == "tar.gz" else "w:") as tar:
        for path, name in entries:
            tar.add(path, name, recursive=False, filter=_anonymous)
            yield


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    # Who owns a file here says nothing elsewhere.
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _named(root: Path, pattern: str) -> Iterator[Path]:
    text = pattern.strip()
    path = Path(text).expanduser()
    if not any(mark in text for mark in "*?["):
        full = root / path
        if full.exists():
            yield full
        return
    if ".." in path.parts:
        raise HandlerError("invalid-input", f"pattern {pattern!r} holds ..", False)
    if path.is_absolute():
        yield from Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    else:
        yield from root.glob(text)


def _below(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir() and not path.is_symlink():
        for folder, folders, files in os.walk(path):
            folders.sort()
            for name in sorted(files):
                file = Path(folder, name)
                if file.is_file():
                    yield file


def _name_in(root: Path, path: Path) -> str:
    try:
        return (path.parent.resolve() / path.name).relative_to(root).as_posix()
    except ValueError:
        text = f"{path} does not lie below {root}: give `base`"
        raise HandlerError("invalid-input", text, False) from None


def _unsafe(archive: Path, name: str, why: str) -> HandlerError:
    return HandlerError("unsafe-archive", f"{archive}: {name[:200]!r}: {why}", False)


def _too_large(archive: Path, bytes_max: int) -> HandlerError:
    return HandlerError("too-large", f"{archive}: over {bytes_max} bytes", False)
