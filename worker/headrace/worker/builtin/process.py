"""Child processes in groups of their own: streamed output, bounded capture, a death that is sure.

A step's processes end with the step: whatever is left in the group when the command has ended
is killed (`setsid` is the way out for what must stay). So "cancelled" means dead, and a worker
leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace.worker.handlers import HandlerError

CHUNK_BYTES: Final = 8 * 1024
"""Handled in one go; small, so that a flood of short lines never holds up the event loop."""
LINE_BYTES_MAX: Final = 64 * 1024
"""A longer line is given out in pieces of this size."""
CAPTURE_WHOLE_BYTES: Final = 64 * 1024
CAPTURE_TAIL_BYTES: Final = 32 * 1024
_DRAIN_S: Final = 0.5
"""How long output may still come after the command has ended and a grandchild holds the pipe."""
_DRAIN_ROUNDS_MAX: Final = 10
_GROUP_POLL_S: Final = 0.02

OnLine = Callable[[str, str], None]
"""Called with the stream's name and one line without its end."""


class Finished(msgspec.Struct, frozen=True):
    """How a command ended."""

    code: int
    """Exit status; negative: killed by that signal."""
    stdout: str
    """Whole up to what was asked for, else the last `CAPTURE_TAIL_BYTES`."""
    stderr_last: str
    """The last line of stderr with something on it."""
    truncated: bool


class Capture:
    """The end of a stream, or all of it when it is short."""

    def __init__(self, whole_bytes: int = CAPTURE_WHOLE_BYTES) -> None:
        self._whole_bytes = max(whole_bytes, CAPTURE_WHOLE_BYTES)
        self._data = bytearray()
        self.truncated = False

    def add(self, chunk: bytes) -> None:
        """Append; forget the beginning when it grows too long."""
        self._data += chunk
        if not self.truncated and len(self._data) > self._whole_bytes:
            self.truncated = True
            del self._data[: len(self._data) - CAPTURE_TAIL_BYTES]
        elif self.truncated and len(self._data) > 2 * CAPTURE_TAIL_BYTES:
            del self._data[: len(self._data) - CAPTURE_TAIL_BYTES]

    def text(self) -> str:
        """Return it decoded; bytes that are no UTF-8 become U+FFFD."""
        data = self._data[-CAPTURE_TAIL_BYTES:] if self.truncated else self._data
        return data.decode("utf-8", "replace")


class Lines:
    """Splits a byte stream into decoded lines, bounded."""

    def __init__(self, stream: str, on_line: OnLine) -> None:
        self._stream, self._on_line = stream, on_line
        self._rest = b""
        self.last = ""
        self.bytes = 0

    def feed(self, chunk: bytes) -> None:
        """Give out every complete line."""
        self.bytes += len(chunk)
        *lines, rest = (self._rest + chunk).split(b"\n")
        while len(rest) > LINE_BYTES_MAX:
            lines.append(rest[:LINE_BYTES_MAX])
            rest = rest[LINE_BYTES_MAX:]
        self._rest = rest
        for line in lines:
            self._give(line)

    def end(self) -> None:
        """Give out a last line without an end."""
        if self._rest:
            self._give(self._rest)
            self._rest = b""

    def _give(self, line: bytes) -> None:
        text = line.removesuffix(b"\r").decode("utf-8", "replace")
        if text.strip():
            self.last = text
        self._on_line(self._stream, text)


async def run_process(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    on_line: OnLine,
    grace_ms: int,
    stdin: bytes | None = None,
    stdout_bytes_max: int = CAPTURE_WHOLE_BYTES,
) -> Finished:
    """Run *argv* to its end and return how it ended; stdout is kept whole up to its maximum.

    Cancelled: SIGTERM to the group, SIGKILL after *grace_ms*, and only then `CancelledError`.
    Raises `HandlerError` of type `not-found` when there is no such program or folder.
    """
    loop = asyncio.get_running_loop()
    try:
        transport, process = await loop.subprocess_exec(
            lambda: _Child(limit=64 * 1024, loop=loop),
            *argv,
            cwd=cwd,
            env=dict(env),
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise HandlerError("not-found", f"cannot start {argv[0]!r}: {error}", False) from error
    except (OSError, ValueError) as error:
        raise HandlerError("spawn-failed", f"cannot start {argv[0]!r}: {error}") from error
    pgid = transport.get_pid()
    capture = Capture(stdout_bytes_max)
    out, err = Lines("stdout", on_line), Lines("stderr", on_line)
    assert process.stdout is not None
    assert process.stderr is not None
    pumps = [
        asyncio.ensure_future(_pump(process.stdout, out, capture)),
        asyncio.ensure_future(_pump(process.stderr, err, None)),
    ]
    if process.stdin is not None:
        pumps.append(asyncio.ensure_future(_feed(process.stdin, stdin or b"")))
    try:
        await process.exited.wait()
        # What is in the pipes is read to its end, unless somebody else keeps them open.
        for _ in range(_DRAIN_ROUNDS_MAX):
            before = out.bytes + err.bytes
            await asyncio.wait(pumps, timeout=_DRAIN_S)
            if all(pump.done() for pump in pumps) or out.bytes + err.bytes == before:
                break
            kill_group(pgid)
    except asyncio.CancelledError:
        await _uninterrupted(_end_group(process, pgid, grace_ms))
        # Its last words.
        await asyncio.wait(pumps[:2], timeout=_DRAIN_S)
        raise
    finally:
        kill_group(pgid)
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps, timeout=1)
        out.end()
        err.end()
        transport.close()
    code = transport.get_returncode()
    assert code is not None
    return Finished(code, capture.text(), err.last, capture.truncated)


class _Child(asyncio.subprocess.SubprocessStreamProtocol):
    """Tells of the exit itself; `Process.wait` also waits until nobody holds the pipes."""

    def __init__(self, *, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit, loop)
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


def kill_group(pgid: int, signum: int = signal.SIGKILL) -> bool:
    """Signal a process group; False: nobody is left in it."""
    try:
        os.killpg(pgid, signum)
    except ProcessLookupError:
        return False
    except PermissionError:
        # macOS says so of a group of zombies; a member that changed its user cannot be reached.
        return False
    return True


def group_lives(pgid: int) -> bool:
    """Tell whether a process of the group can still run.

    Dead ones that nobody has reaped count for `killpg` (in a container without an init they stay
    for ever); `/proc`, where there is one, tells them apart.
    """
    if not kill_group(pgid, 0):
        return False
    try:
        entries = os.listdir("/proc")
    except FileNotFoundError:
        return True
    for entry in entries:
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            # pid (name, which may hold anything) state ppid pgrp …
            state, _, pgrp = stat[stat.rfind(")") + 2 :].split(" ", 3)[:3]
            if pgrp == str(pgid) and state not in "ZX":
                return True
    return False


async def _end_group(process: _Child, pgid: int, grace_ms: int) -> None:
    """SIGTERM, at most *grace_ms* of patience, SIGKILL; return when the group is dead."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace_ms / 1000):
            kill_group(pgid, signal.SIGTERM)
            await process.exited.wait()
            while group_lives(pgid):  # noqa: ASYNC110 - the kernel has no event for it
                await asyncio.sleep(_GROUP_POLL_S)
            return
    kill_group(pgid)
    await process.exited.wait()
    # SIGKILL cannot be refused, but a process in a system call takes its time to die.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            while group_lives(pgid):  # noqa: ASYNC110 - the kernel has no event for it
                await asyncio.sleep(_GROUP_POLL_S)


async def _uninterrupted(ending: Coroutine[Any, Any, None]) -> None:
    """Wait for *ending* through further cancellations: a group half killed helps nobody."""
    task = asyncio.ensure_future(ending)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait((task,))
    task.result()


async def _pump(reader: asyncio.StreamReader, lines: Lines, capture: Capture | None) -> None:
    while chunk := await reader.read(CHUNK_BYTES):
        if capture is not None:
            capture.add(chunk)
        lines.feed(chunk)
        # `read` does not suspend while its buffer is full.
        await asyncio.sleep(0)


async def _feed(writer: asyncio.StreamWriter, data: bytes) -> None:
    # A command need not read its input.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        writer.write(data)
        await writer.drain()
    writer.close()
