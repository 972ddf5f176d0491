"""`file/read`, `file/write`, `file/copy`, `file/transfer`; relative paths lie in the workspace."""

from __future__ import annotations

import base64
import datetime
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from headrace.messages import subjects
from headrace.worker.handlers import Context, HandlerError, handler

READ_BYTES_MAX: Final = 64 * 1024 * 1024
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class ReadInputs(msgspec.Struct, forbid_unknown_fields=True):
    """What to read."""

    path: str
    encoding: str = "utf-8"
    """Of the text, or `base64`."""
    format: Literal["text", "json"] = "text"
    """`json`: output `result` is the parsed value."""


class WriteInputs(
    msgspec.Struct, forbid_unknown_fields=True, rename={"make_folders": "make-folders"}
):
    """What to write."""

    path: str
    content: Any = ""
    """Text; anything else is written as JSON."""
    encoding: str = "utf-8"
    """Of the text, or `base64`."""
    append: bool = False
    mode: str = ""
    """Permissions in octal, `0640`."""
    make_folders: bool = True


class CopyInputs(msgspec.Struct, forbid_unknown_fields=True):
    """From where to where; `file/transfer` fills ``{date}``, ``{datetime}`` and ``{run}`` in."""

    source: str
    destination: str
    overwrite: bool = True
    """Replace what is there."""


class TransferInputs(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """Places, and how to reach a storage."""

    source: str
    destination: str
    endpoint: str = ""
    region: str = ""
    access_key: str = ""
    secret_key: str = ""


@handler("file/read")
def read(ctx: Context, inputs: ReadInputs) -> dict[str, Any]:
    """Return `content`, `result` (the same, or the parsed JSON), `size` and `path`."""
    path = _at(ctx, inputs.path)
    try:
        with path.open("rb") as file:
            data = file.read(READ_BYTES_MAX + 1)
    except OSError as error:
        raise _trouble(error) from error
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
    return {"content": content, "size": len(data), "path": str(path), "result": result}


@handler("file/write")
def write(ctx: Context, inputs: WriteInputs) -> dict[str, Any]:
    """Write whole or not at all (unless it appends); return `path` and `size`."""
    path = _at(ctx, inputs.path)
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
        return {"path": str(path), "size": path.stat().st_size}
    except OSError as error:
        raise _trouble(error) from error


@handler("file/copy")
def copy(ctx: Context, inputs: CopyInputs) -> dict[str, Any]:
    """Copy a file or a folder; return `path` and `size` (of a file)."""
    source, destination = _at(ctx, inputs.source), _at(ctx, inputs.destination)
    return _copy(source, destination, inputs.destination, overwrite=inputs.overwrite)


@handler("file/transfer")
def transfer(ctx: Context, inputs: TransferInputs) -> dict[str, Any]:
    """Copy between places named by paths or URLs; only local ones so far."""
    source, destination = _filled(ctx, inputs.source), _filled(ctx, inputs.destination)
    return _copy(_at(ctx, _local(source)), _at(ctx, _local(destination)), destination)


def _filled(ctx: Context, template: str) -> str:
    now = datetime.datetime.now(tz=datetime.UTC)
    values = {
        "{date}": now.strftime("%Y-%m-%d"),
        "{datetime}": now.strftime("%Y%m%dT%H%M%SZ"),
        "{run}": subjects.split_key(ctx.run)[1],
    }
    for name, value in values.items():
        template = template.replace(name, value)
    return template


def _local(place: str) -> str:
    found = _SCHEME.match(place)
    if found is None:
        return place
    if found[1].lower() == "file":
        return place[found.end() :]
    text = f"file/transfer cannot reach {found[1]}:// yet: {place}"
    raise HandlerError("unsupported-scheme", text, retryable=False)


def _at(ctx: Context, path: str) -> Path:
    if not path or "\x00" in path:
        raise HandlerError("invalid-input", f"{path!r} is no path", False)
    return ctx.workspace / Path(path).expanduser()


def _copy(
    source: Path, destination: Path, written: str, *, overwrite: bool = True
) -> dict[str, Any]:
    try:
        if destination.is_dir() or written.endswith("/"):
            destination = destination / source.name
        if not overwrite and destination.exists():
            raise HandlerError("exists", f"{destination} is there already", retryable=False)
        destination.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, destination, symlinks=True, dirs_exist_ok=True)
            return {"path": str(destination)}
        handle, scratch = tempfile.mkstemp(dir=destination.parent, prefix=".headrace-")
        os.close(handle)
        try:
            shutil.copy2(source, scratch)
            Path(scratch).replace(destination)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise
        return {"path": str(destination), "size": destination.stat().st_size}
    except OSError as error:
        raise _trouble(error) from error


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


def _trouble(error: OSError) -> HandlerError:
    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    kind = "not-found" if missing else type(error).__name__
    return HandlerError(kind, f"{error.filename or ''}: {error.strerror or error}", not missing)
