"""`artifact/upload` and `artifact/download`: files that a run keeps, by name, as tar.gz."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Final, Literal

import msgspec

from headrace.errors import Conflict, NotFound
from headrace.worker.builtin.archives import Packed, matching, pack, unpack
from headrace.worker.builtin.paths import trouble, workspace_path
from headrace.worker.handlers import Context, HandlerError, handler
from headrace.worker.scratch import scratch_folder

NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
PACKED_BYTES_MAX: Final = 128 * 1024 * 1024
_WILD: Final = re.compile(r"[*?\[]")


class UploadInputs(msgspec.Struct, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """What to keep."""

    name: str = "artifact"
    path: str | list[str]
    if_no_files_found: Literal["warn", "error", "ignore"] = "warn"
    overwrite: bool = False
    max_bytes: int = PACKED_BYTES_MAX


class UploadOutputs(msgspec.Struct):
    """What is kept."""

    name: str
    size: int
    files: int
    digest: str


class DownloadInputs(msgspec.Struct, forbid_unknown_fields=True):
    """What to fetch."""

    name: str = "artifact"
    path: str = "."


class DownloadOutputs(msgspec.Struct):
    """What came out."""

    path: str
    size: int
    files: int


@handler("artifact/upload")
async def upload(ctx: Context, inputs: UploadInputs) -> UploadOutputs:
    """Pack what matches and keep it with the run; whole, or not at all."""
    _check_name(inputs.name)
    text = inputs.path if isinstance(inputs.path, str) else "\n".join(inputs.path)
    patterns = [line.strip() for line in text.splitlines() if line.strip()]
    store = ctx.artifacts
    limit = min(inputs.max_bytes, store.bytes_max)
    folder = await asyncio.to_thread(scratch_folder, "artifact")
    packing = asyncio.to_thread(_packed, ctx, patterns, folder / "artifact.tar.gz", limit)
    try:
        packed, digest = await packing
        if packed is None:
            return _nothing(ctx, inputs, patterns)
        # An earlier attempt of this very step may have stored it, and died before it said so.
        await store.put(
            ctx.run,
            inputs.name,
            folder / "artifact.tar.gz",
            overwrite=inputs.overwrite or ctx.attempt > 1,
        )
    except Conflict as error:
        text = f"the run has an artifact {inputs.name!r} already: choose a name, or `overwrite`"
        raise HandlerError("exists", text, False) from error
    except OSError as error:
        raise trouble(error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return UploadOutputs(inputs.name, packed.size, packed.files, digest)


@handler("artifact/download")
async def download(ctx: Context, inputs: DownloadInputs) -> DownloadOutputs:
    """Fetch and unpack an artifact of this run."""
    _check_name(inputs.name)
    target = workspace_path(ctx, inputs.path)
    folder = await asyncio.to_thread(scratch_folder, "artifact")
    archive = folder / f"{inputs.name}.tar.gz"
    try:
        await ctx.artifacts.get(ctx.run, inputs.name, archive)
        unpacked = await asyncio.to_thread(
            unpack, archive, target, "tar.gz", stop=lambda: ctx.cancelled
        )
    except NotFound as error:
        text = f"the run has no artifact {inputs.name!r}"
        raise HandlerError("not-found", text, False) from error
    except OSError as error:
        raise trouble(error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return DownloadOutputs(str(target), unpacked.size, unpacked.files)


def root_of(workspace: Path, patterns: list[str]) -> Path:
    """Return the folder that names in the artifact are relative to, as GitHub's action does it.

    A folder's content lies at the top; with several paths, what they have in common does.
    """
    roots: list[str] = []
    for pattern in patterns:
        if pattern.startswith("!"):
            continue
        path = workspace / Path(pattern).expanduser()
        wild = next((n for n, part in enumerate(path.parts) if _WILD.search(part)), None)
        if wild is not None:
            path = Path(*path.parts[:wild])
        elif not path.is_dir():
            path = path.parent
        roots.append(str(path.resolve()))
    return Path(os.path.commonpath(roots)) if roots else workspace


def _packed(
    ctx: Context, patterns: list[str], target: Path, limit: int
) -> tuple[Packed | None, str]:
    files = matching(ctx.workspace, patterns)
    if not files:
        return None, ""
    root = root_of(ctx.workspace, patterns)
    stop = lambda: ctx.cancelled  # noqa: E731
    packed = pack(files, target, "tar.gz", base=root, bytes_max=limit, stop=stop)
    with target.open("rb") as file:
        return packed, hashlib.file_digest(file, "sha256").hexdigest()


def _nothing(ctx: Context, inputs: UploadInputs, patterns: list[str]) -> UploadOutputs:
    text = f"no file matches {', '.join(patterns)}"
    if inputs.if_no_files_found == "error":
        raise HandlerError("not-found", f"artifact/upload: {text}", False)
    if inputs.if_no_files_found == "warn":
        ctx.log(f"{text}: nothing is kept", stream="system")
        ctx.extra.annotations.append({"level": "warning", "message": text})
    return UploadOutputs(inputs.name, 0, 0, "")


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name) or name.startswith("."):
        text = f"artifact name {name!r}: 1 to 128 letters, digits, . _ -, and no dot in front"
        raise HandlerError("invalid-input", text, False)
