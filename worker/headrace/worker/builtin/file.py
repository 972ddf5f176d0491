"""`file/read`, `file/write`, `file/copy`, `file/move`, `file/archive`, `file/extract`.

Relative paths lie in the workspace.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from headrace.worker.builtin.archives import (
    BYTES_MAX,
    FILES_MAX,
    format_of,
    matching,
    pack,
    unpack,
)
from headrace.worker.builtin.paths import trouble, workspace_path
from headrace.worker.handlers import Context, HandlerError, handler

READ_BYTES_MAX: Final = 64 * 1024 * 1024


class ReadInputs(msgspec.Struct, forbid_unknown_fields=True):
    """What to read."""

    path: str
    encoding: str = "utf-8"
    """Of the text, or `base64`."""
    format: Literal["text", "json"] = "text"
    """`json`: output `result` is the parsed value."""


class ReadOutputs(msgspec.Struct):
    """What was read."""

    content: str
    size: int
    path: str
    result: Any


class WriteInputs(
    msgspec.Struct, forbid_unknown_fields=True, rename={"make_folders": "make-folders"}
):
    """What to write."""

    path: str
    content: Any
    """Text; anything else is written as JSON."""
    encoding: str = "utf-8"
    """Of the text, or `base64`."""
    append: bool = False
    mode: str = ""
    """Permissions in octal, `0640`."""
    make_folders: bool = True


class Written(msgspec.Struct):
    """Where it is."""

    path: str
    size: int


class CopyInputs(msgspec.Struct, forbid_unknown_fields=True):
    """From where to where."""

    source: str
    destination: str
    overwrite: bool = True
    """Replace what is there."""


class Copied(msgspec.Struct, omit_defaults=True):
    """Where it is now; a folder has no size."""

    path: str
    size: int | msgspec.UnsetType = msgspec.UNSET


class ArchiveInputs(msgspec.Struct, forbid_unknown_fields=True):
    """What to pack."""

    source: str | list[str]
    destination: str
    format: Literal["", "tar.gz", "tar", "zip"] = ""
    base: str = ""


class ArchiveOutputs(msgspec.Struct):
    """The archive."""

    path: str
    size: int
    files: int


class ExtractInputs(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """What to unpack."""

    source: str
    destination: str = "."
    format: Literal["", "tar.gz", "tar", "zip"] = ""
    max_bytes: int = BYTES_MAX
    max_files: int = FILES_MAX


class ExtractOutputs(msgspec.Struct):
    """What came out."""

    path: str
    size: int
    files: int


@handler("file/read")
def read(ctx: Context, inputs: ReadInputs) -> ReadOutputs:
    """Return `content`, `result` (the same, or the parsed JSON), `size` and `path`."""
    path = workspace_path(ctx, inputs.path)
    try:
        with path.open("rb") as file:
            data = file.read(READ_BYTES_MAX + 1)
    except OSError as error:
        raise trouble(error) from error
    if len(data) > READ_BYTES_MAX:
        raise HandlerError("result-too-large", f"{path} is over {READ_BYTES_MAX} bytes", False)
    if inputs.encoding == "base64":
        content = base64.b64encode(data).decode()
    else:
        try:
            content = data.decode(inputs.encoding)
        except (UnicodeDecodeError, LookupError) as error:
            text = f"{path} is no {inputs.encoding} text: read it with encoding base64"
            raise HandlerError("invalid-input", text, False) from error
    result: Any = content
    if inputs.format == "json":
        try:
            result = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise HandlerError("invalid-input", f"{path} is no JSON: {error}", False) from error
    return ReadOutputs(content, len(data), str(path), result)


@handler("file/write")
def write(ctx: Context, inputs: WriteInputs) -> Written:
    """Write whole or not at all (unless it appends); return `path` and `size`."""
    path = workspace_path(ctx, inputs.path)
    try:
        mode = int(inputs.mode, 8) if inputs.mode else None
        content = inputs.content
        if not isinstance(content, str):
            content = json.dumps(content, ensure_ascii=False)
        data = (
            base64.b64decode(content, validate=True)
            if inputs.encoding == "base64"
            else content.encode(inputs.encoding)
        )
    except (ValueError, LookupError) as error:
        raise HandlerError("invalid-input", f"file/write: {error}", False) from error
    try:
        if inputs.make_folders:
            path.parent.mkdir(parents=True, exist_ok=True)
        if inputs.append:
            with path.open("ab") as file:
                file.write(data)
            if mode is not None:
                path.chmod(mode)
        else:
            _replace(path, data, mode)
        return Written(str(path), path.stat().st_size)
    except OSError as error:
        raise trouble(error) from error


@handler("file/copy")
def copy(ctx: Context, inputs: CopyInputs) -> Copied:
    """Copy a file or a folder; return `path` and `size` (of a file)."""
    source = workspace_path(ctx, inputs.source)
    destination = _into(source, workspace_path(ctx, inputs.destination), inputs.destination)
    try:
        return copied(source, destination, overwrite=inputs.overwrite)
    except OSError as error:
        raise trouble(error) from error


@handler("file/move")
def move(ctx: Context, inputs: CopyInputs) -> Copied:
    """Move a file or a folder; return `path` and `size` (of a file)."""
    source = workspace_path(ctx, inputs.source)
    destination = _into(source, workspace_path(ctx, inputs.destination), inputs.destination)
    try:
        if destination.is_dir() and not destination.is_symlink():
            raise HandlerError("exists", f"{destination} is a folder already", retryable=False)
        if not inputs.overwrite and os.path.lexists(destination):
            raise HandlerError("exists", f"{destination} is there already", retryable=False)
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, destination)
        if destination.is_dir():
            return Copied(str(destination))
        return Copied(str(destination), destination.stat().st_size)
    except shutil.Error as error:
        raise HandlerError("invalid-input", f"file/move: {error}", False) from error
    except OSError as error:
        raise trouble(error) from error


@handler("file/archive")
def archive(ctx: Context, inputs: ArchiveInputs) -> ArchiveOutputs:
    """Pack files and folders; return `path`, `size` and `files`."""
    target = workspace_path(ctx, inputs.destination)
    form = format_of(inputs.destination, inputs.format)
    base = workspace_path(ctx, inputs.base) if inputs.base else ctx.workspace
    patterns = inputs.source.splitlines() if isinstance(inputs.source, str) else inputs.source
    try:
        wanted = [pattern for pattern in patterns if pattern.strip()]
        files = [path for path in matching(base, wanted) if path != target]
        if not files:
            text = f"file/archive: nothing matches {', '.join(wanted)}"
            raise HandlerError("not-found", text, False)
        packed = pack(files, target, form, base=base, stop=lambda: ctx.cancelled)
    except OSError as error:
        raise trouble(error) from error
    return ArchiveOutputs(str(target), packed.size, packed.files)


@handler("file/extract")
def extract(ctx: Context, inputs: ExtractInputs) -> ExtractOutputs:
    """Unpack an archive; return `path`, `size` and `files`."""
    source = workspace_path(ctx, inputs.source)
    folder = workspace_path(ctx, inputs.destination)
    form = format_of(inputs.source, inputs.format)
    try:
        unpacked = unpack(
            source,
            folder,
            form,
            bytes_max=inputs.max_bytes,
            files_max=inputs.max_files,
            stop=lambda: ctx.cancelled,
        )
    except OSError as error:
        raise trouble(error) from error
    return ExtractOutputs(str(folder), unpacked.size, unpacked.files)


def copied(source: Path, destination: Path, *, overwrite: bool = True) -> Copied:
    """Copy a file, whole or not at all, or a folder. Raises `HandlerError` and `OSError`."""
    if not overwrite and destination.exists():
        raise HandlerError("exists", f"{destination} is there already", retryable=False)
    destination.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, destination, symlinks=True, dirs_exist_ok=True)
        return Copied(str(destination))
    handle, scratch = tempfile.mkstemp(dir=destination.parent, prefix=".headrace-")
    os.close(handle)
    try:
        shutil.copy2(source, scratch)
        Path(scratch).replace(destination)
    finally:
        Path(scratch).unlink(missing_ok=True)
    return Copied(str(destination), destination.stat().st_size)


def _into(source: Path, destination: Path, written: str) -> Path:
    """Return where *source* goes: into *destination* if that is a folder, or written as one."""
    if destination.is_dir() or written.endswith("/"):
        return destination / source.name
    return destination


def _replace(path: Path, data: bytes, mode: int | None) -> None:
    if mode is None:
        mode = path.stat().st_mode & 0o7777 if path.exists() else 0o644
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=".headrace-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(scratch).chmod(mode)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
