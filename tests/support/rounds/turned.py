"""A wall clock that others can turn. A process imports this before anything else.

`time.time` and `time.time_ns` differ from the machine's clock by what stands in a file that is
mapped into memory; the monotonic clock is left alone. (libfaketime does the same to any program,
but its timed waits keep an interpreter with threads busy all the time.)
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

VARIABLE = "ROUNDS_CLOCK"
_OFFSET = struct.Struct("<q")


def turn(path: Path, offset_s: int) -> None:
    """Let the clock of the process that reads *path* be off by so much, from now on."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, _OFFSET.pack(offset_s * 10**9), 0)
    finally:
        os.close(descriptor)


def _install(path: str) -> None:
    with open(path, "rb") as file:
        offset = mmap.mmap(file.fileno(), _OFFSET.size, access=mmap.ACCESS_READ)
    true_ns, unpack = time.time_ns, _OFFSET.unpack_from

    def time_ns() -> int:
        return true_ns() + int(unpack(offset)[0])

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


if VARIABLE in os.environ:
    _install(os.environ[VARIABLE])
