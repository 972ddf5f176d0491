"""A command that runs while a lock is held: renewed, ended with the lock, its exit code kept."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from headrace.errors import Busy, Conflict, HeadraceError, InvalidRequest, Unreachable
from headrace.flowctl._shared import note, note_trouble

if TYPE_CHECKING:
    from headrace.client import Client
    from headrace.messages import LockView

GRACE_S = 10.0
"""Time that the command has to end, once the lock is lost."""
RELEASE_S = 5.0
_FORWARDED = (signal.SIGTERM, signal.SIGHUP)


async def run_command(
    client: Client, name: str, command: Sequence[str], *, ttl_ms: int, wait_ms: int, owner: str
) -> int:
    """Acquire lock *name*, run *command*, give the lock back; return the command's exit code.

    128 + n when signal n has ended it. Raises `Conflict` when the lock is not free in time, or was
    lost while the command ran; `InvalidRequest` when there is no such command.
    """
    held = await client.locks.acquire(name, ttl_ms=ttl_ms, owner=owner, wait_ms=wait_ms)
    try:
        env = {**os.environ, "HEADRACE_LOCK": name, "HEADRACE_LOCK_TOKEN": str(held.token)}
        try:
            process = await asyncio.create_subprocess_exec(*command, env=env)
        except OSError as error:
            raise InvalidRequest(f"cannot run {command[0]}: {error.strerror}") from error
        with _forwarding(process):
            return await _renewed(client, held, process, ttl_ms)
    finally:
        with contextlib.suppress(HeadraceError, TimeoutError):
            async with asyncio.timeout(RELEASE_S):
                await client.locks.release(name, token=held.token)


async def _renewed(
    client: Client, held: LockView, process: asyncio.subprocess.Process, ttl_ms: int
) -> int:
    """Renew the lock until the process has ended; end it when the lock is lost."""
    ended = asyncio.ensure_future(process.wait())
    until = time.monotonic() + ttl_ms / 1000
    try:
        while True:
            done, _ = await asyncio.wait([ended], timeout=ttl_ms / 3000)
            if done:
                code = ended.result()
                return code if code >= 0 else 128 - code
            begun = time.monotonic()
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + until - begun):
                    await client.locks.renew(held.name, token=held.token, ttl_ms=ttl_ms)
            except (Unreachable, Busy, TimeoutError) as error:
                if time.monotonic() < until:
                    note_trouble(error)
                    continue
                await _lost(held, process, ended)
            except Conflict:
                await _lost(held, process, ended)
            until = begun + ttl_ms / 1000
    finally:
        if not ended.done():
            process.kill()
            await ended


async def _lost(
    held: LockView, process: asyncio.subprocess.Process, ended: asyncio.Future[int]
) -> None:
    note(f"lock {held.name} is lost: the command is ended")
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    await asyncio.wait([ended], timeout=GRACE_S)
    raise Conflict(f"lock {held.name} was lost while the command ran")


@contextlib.contextmanager
def _forwarding(process: asyncio.subprocess.Process) -> Generator[None]:
    """Hand signals on to the process: it decides what they mean. Ctrl-C reaches it by itself."""
    loop = asyncio.get_running_loop()

    def forward(number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)

    for number in _FORWARDED:
        loop.add_signal_handler(number, forward, number)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    try:
        yield
    finally:
        for number in (*_FORWARDED, signal.SIGINT):
            loop.remove_signal_handler(number)
