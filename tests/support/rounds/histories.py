"""Fetches histories as users do, through the client, for the judge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from headrace.client import Client
from headrace.errors import NotFound
from support.rounds.record import UNKNOWN

AT_ONCE = 32
PAUSE_S = 0.2

History = list[dict[str, Any]]


async def fetch(
    client: Client, runs: Iterable[str], *, within_s: float = 60.0
) -> dict[str, History | None]:
    """Return the histories of *runs* and of their children; None for a run that is unknown.

    Raises the client's error when nobody answers in time.
    """
    gate, deadline = asyncio.Semaphore(AT_ONCE), time.monotonic() + within_s

    async def one(run: str) -> History | None:
        async with gate:
            while True:
                try:
                    return [
                        {"path": "", "data": {}} | msgspec.to_builtins(entry)
                        for entry in await client.history(run)
                    ]
                except NotFound:
                    return None
                except UNKNOWN:
                    if time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(PAUSE_S)

    found: dict[str, History | None] = {}
    wanted = list(dict.fromkeys(runs))
    while wanted:
        got = await asyncio.gather(*(one(run) for run in wanted))
        found.update(zip(wanted, got, strict=True))
        wanted = [child for history in got for child in _children(history) if child not in found]
    return found


def _children(history: History | None) -> list[str]:
    events = history or ()
    return [event["data"]["child"] for event in events if event["type"] == "ChildStarted"]
