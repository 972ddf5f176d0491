"""Processes that do not outlive `flowctl dev`: how they are started and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Process: TypeAlias = asyncio.subprocess.Process

STOP_GRACE_S = 8.0


async def start(
    arguments: Sequence[str], *, environment: Mapping[str, str] | None = None
) -> Process:
    """Start ``flowctl *arguments*``, in a session of its own: the terminal's Ctrl-C is not for it.

    Without *environment* it has ours.
    """
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "headrace.local.child", *arguments),
        start_new_session=True,
        env=environment,
    )


async def stop(process: Process) -> None:
    """SIGTERM, a grace, SIGKILL; a process that has ended is left alone."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_GRACE_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
