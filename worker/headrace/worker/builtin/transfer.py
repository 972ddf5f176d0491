"""`file/transfer`: one file between the workspace and S3-compatible storage, by `obstore`."""

from __future__ import annotations

import asyncio
import datetime
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from headrace.worker.builtin.basic import parse_duration_s
from headrace.worker.builtin.file import copied
from headrace.worker.builtin.paths import filled_in, trouble, workspace_path
from headrace.worker.handlers import Context, HandlerError, handler

if TYPE_CHECKING:
    from obstore.store import S3Store

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
PART_BYTES: Final = 8 * 1024 * 1024
RETRIES_MAX: Final = 3
_RETRY_S: Final = 30.0


class TransferInputs(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """Places, and how to reach the storage."""

    source: str
    destination: str
    endpoint: str = ""
    region: str = ""
    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""
    timeout: float | str = 60
    overwrite: bool = True


class TransferOutputs(msgspec.Struct, omit_defaults=True):
    """What went where."""

    source: str
    destination: str
    size: int
    path: str | msgspec.UnsetType = msgspec.UNSET


class Place(msgspec.Struct, frozen=True):
    """An object in a bucket, or with an empty bucket a path."""

    bucket: str
    name: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.name}" if self.bucket else self.name


@handler("file/transfer")
async def transfer(ctx: Context, inputs: TransferInputs) -> TransferOutputs:
    """Copy the file; what is there is replaced as a whole or not at all."""
    source = place_of(filled_in(ctx, inputs.source))
    name = source.name.rstrip("/").rpartition("/")[2]
    target = place_of(filled_in(ctx, inputs.destination, name=name), name)
    if not source.bucket and not target.bucket:
        made = await asyncio.to_thread(_copy_here, ctx, source, target, inputs.overwrite)
    else:
        made = await _with_storage(ctx, source, target, inputs)
    return made


def place_of(text: str, name: str = "") -> Place:
    """Return the place that a path or URL names; *name* is added to a folder's.

    Raises `HandlerError` of type `unsupported-scheme` or `invalid-input`.
    """
    found = _SCHEME.match(text)
    scheme = found[1].lower() if found else "file"
    rest = text[found.end() :] if found else text
    if name and rest.endswith("/"):
        rest += name
    if scheme == "file":
        return Place("", rest)
    if scheme != "s3":
        message = f"file/transfer reaches files and s3://, not {scheme}://"
        raise HandlerError("unsupported-scheme", message, retryable=False)
    bucket, _, key = rest.partition("/")
    if not bucket or not key or key.endswith("/"):
        raise HandlerError("invalid-input", f"{text!r} is not s3://bucket/key", False)
    return Place(bucket, key)


def _copy_here(ctx: Context, source: Place, target: Place, overwrite: bool) -> TransferOutputs:
    origin = workspace_path(ctx, source.name)
    path = workspace_path(ctx, target.name)
    try:
        if path.is_dir():
            path = path / origin.name
        if origin.is_dir():
            raise HandlerError("invalid-input", f"{origin} is a folder: archive it first", False)
        done = copied(origin, path, overwrite=overwrite)
        return TransferOutputs(str(origin), str(path), path.stat().st_size, path=done.path)
    except OSError as error:
        raise trouble(error) from error


async def _with_storage(
    ctx: Context, source: Place, target: Place, inputs: TransferInputs
) -> TransferOutputs:
    try:
        from obstore import exceptions
    except ImportError as error:
        text = "s3:// needs obstore: install headrace[s3] on the worker"
        raise HandlerError("not-installed", text, False) from error
    path: Path | None = None
    try:
        if source.bucket and target.bucket:
            size = await _from_store_to_store(source, target, inputs)
        elif target.bucket:
            size = await _upload(workspace_path(ctx, source.name), target, inputs)
        else:
            path = workspace_path(ctx, target.name)
            path = path / source.name.rpartition("/")[2] if path.is_dir() else path
            size = await _download(source, path, inputs)
    except FileNotFoundError as error:
        raise HandlerError("not-found", f"{source}: not there ({_short(error)})", False) from error
    except exceptions.AlreadyExistsError as error:
        raise HandlerError("exists", f"{target} is there already", False) from error
    except (exceptions.UnauthenticatedError, exceptions.PermissionDeniedError) as error:
        raise HandlerError("not-allowed", f"{source} → {target}: {_short(error)}", False) from error
    except exceptions.BaseError as error:
        raise HandlerError("storage", f"{source} → {target}: {_short(error)}") from error
    except OSError as error:
        raise trouble(error) from error
    shown = str(path) if path is not None else str(target)
    made = TransferOutputs(str(source), shown, size)
    if path is not None:
        made.path = str(path)
    return made


async def _upload(path: Path, target: Place, inputs: TransferInputs) -> int:
    import obstore

    size = await asyncio.to_thread(_size_of, path)
    store = _store(target.bucket, inputs)
    if not inputs.overwrite:
        await _refuse_existing(store, target)
    await obstore.put_async(store, target.name, path, chunk_size=PART_BYTES)
    return size


async def _download(source: Place, path: Path, inputs: TransferInputs) -> int:
    import obstore

    got = await obstore.get_async(_store(source.bucket, inputs), source.name)
    handle, scratch = await asyncio.to_thread(_scratch, path, inputs.overwrite)
    size = 0
    try:
        with os.fdopen(handle, "wb") as file:
            async for chunk in got.stream(min_chunk_size=1024 * 1024):
                size += len(chunk)
                await asyncio.to_thread(file.write, chunk)
        await asyncio.to_thread(_settle, scratch, path)
    finally:
        await asyncio.to_thread(scratch.unlink, missing_ok=True)
    return size


def _size_of(path: Path) -> int:
    if path.is_dir():
        raise HandlerError("invalid-input", f"{path} is a folder: archive it first", False)
    return path.stat().st_size


def _scratch(path: Path, overwrite: bool) -> tuple[int, Path]:
    if not overwrite and path.exists():
        raise HandlerError("exists", f"{path} is there already", retryable=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".headrace-")
    return handle, Path(name)


def _settle(scratch: Path, path: Path) -> None:
    scratch.chmod(0o644)
    scratch.replace(path)


async def _from_store_to_store(source: Place, target: Place, inputs: TransferInputs) -> int:
    import obstore

    store = _store(source.bucket, inputs)
    other = _store(target.bucket, inputs)
    if not inputs.overwrite:
        await _refuse_existing(other, target)
    if source.bucket == target.bucket:
        await obstore.copy_async(store, source.name, target.name)
        return int((await obstore.head_async(store, target.name))["size"])
    got = await obstore.get_async(store, source.name)
    size = int(got.meta["size"])
    await obstore.put_async(other, target.name, got.stream(PART_BYTES), chunk_size=PART_BYTES)
    return size


async def _refuse_existing(store: S3Store, target: Place) -> None:
    import obstore

    try:
        await obstore.head_async(store, target.name)
    except FileNotFoundError:
        return
    raise HandlerError("exists", f"{target} is there already", retryable=False)


def _store(bucket: str, inputs: TransferInputs) -> S3Store:
    from obstore.store import S3Store

    seconds = parse_duration_s(inputs.timeout)
    endpoint = inputs.endpoint or os.environ.get("AWS_ENDPOINT_URL", "")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise HandlerError("invalid-input", "file/transfer: endpoint is not http(s)://…", False)
    options: dict[str, Any] = {
        "region": inputs.region or os.environ.get("AWS_REGION", "us-east-1"),
        "virtual_hosted_style_request": not endpoint,
        "client_options": {
            "timeout": datetime.timedelta(seconds=seconds),
            "connect_timeout": datetime.timedelta(seconds=min(seconds, 10)),
            "allow_http": endpoint.startswith("http://"),
        },
        "retry_config": {
            "max_retries": RETRIES_MAX,
            "retry_timeout": datetime.timedelta(seconds=min(seconds, _RETRY_S)),
        },
    }
    for name, value in (
        ("endpoint", endpoint),
        ("access_key_id", inputs.access_key),
        ("secret_access_key", inputs.secret_key),
        ("session_token", inputs.session_token),
    ):
        if value:
            options[name] = value
    return S3Store(bucket, **options)


def _short(error: Exception) -> str:
    """Return the first line of what the library says; the rest are its debugging notes."""
    text = str(error).strip()
    return text.splitlines()[0][:500] if text else type(error).__name__
