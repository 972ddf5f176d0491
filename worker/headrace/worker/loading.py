"""Python code that is loaded while a worker lives: whether it has changed, and what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container
from pathlib import Path
from typing import Final, TypeVar

from headrace.threads import Threads

POLL_S: Final = 1.0
"""Files are looked at so often; that works on any file system."""
LOAD_S: Final = 10.0
"""What takes longer to load is given up; its thread cannot be stopped."""
PROBLEM_CHARS_MAX: Final = 300

T = TypeVar("T")
Stamp = tuple[int, int, int]
"""Time of change, size and inode of a file."""


class Broken(Exception):
    """Code that cannot be loaded, and why."""


def stamp_of(path: Path) -> Stamp | None:
    """Return what tells a file from its next version; None: there is no such file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


async def loaded(threads: Threads, work: Callable[[], T], limit_s: float) -> T:
    """Do *work* in a thread, since code that is loaded may do anything.

    Raises `Broken` when it takes longer than *limit_s*, and what *work* raises.
    """
    future = threads.start(work)
    done, _ = await asyncio.wait((future,), timeout=limit_s)
    if not done:
        raise Broken(f"still loading after {limit_s:g} s")
    result: T = future.result()
    return result


def said(error: BaseException) -> str:
    """Return what an error of loaded code says."""
    if isinstance(error, SyntaxError):
        return error.msg
    return f"{type(error).__name__}: {error}"


def place_of(error: BaseException, files: Container[str]) -> tuple[str, int]:
    """Return file and line of *error*: the last that it came through; ("", 0): none of *files*."""
    place, trace = ("", 0), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in files:
            place = (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename and error.filename in files:
        return error.filename, error.lineno or 0
    return place
