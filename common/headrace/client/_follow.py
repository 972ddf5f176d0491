"""Following a run: until it ends, at each change, line by line."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import msgspec

from headrace.client._transport import Transport
from headrace.errors import Busy, HeadraceError, NotFound, Unavailable, Unreachable
from headrace.messages import LogLines, RunView, decode, subjects

T = TypeVar("T")

_NUMBER = re.compile(r"\d+")
ENDED = frozenset(("COMPLETED", "FAILED", "CANCELLED"))
WAIT_CHUNK_S = 5.0
"""One request waits at most this long at the server: who waits for a run notices an owner that
has gone only when it is over."""
POLL_S = 2.0
"""A lost notification costs at most this much."""
REFRESH_S_MIN = 0.1
LOGS_POLL_S = 0.5
OUTAGE_S_MAX = 120.0
"""How long nobody may answer before following a run is given up."""

OUTAGE = (Unreachable, Busy, Unavailable)
"""What passes: nobody answers, or what is asked cannot do it now (an archive whose streams have no
leader for some seconds)."""

Get = Callable[[float], Awaitable[RunView]]
"""Fetches the run's view; the argument is how long the server may wait for its end, in s."""
Trouble = Callable[[HeadraceError], None]
"""Is told once for each outage."""
Rest = Callable[[RunView], None]
"""Is told of a run that does not go on by itself, once for each reason."""


class Patience:
    """Calls again through an outage of at most *outage_s*."""

    def __init__(self, outage_s: float, on_trouble: Trouble | None) -> None:
        self._outage_s = outage_s
        self._on_trouble = on_trouble
        self._since: float | None = None

    async def survived(self, error: HeadraceError) -> None:
        """Pause after *error*; raises it when the outage has lasted too long."""
        now = _now()
        if self._since is None:
            self._since = now
            if self._on_trouble is not None:
                self._on_trouble(error)
        if now - self._since >= self._outage_s:
            raise error
        await asyncio.sleep(min(0.2, self._outage_s))

    def fine(self) -> None:
        """Forget the outage."""
        self._since = None


async def patiently(
    call: Callable[[], Awaitable[T]], *, outage_s: float, on_trouble: Trouble | None = None
) -> T:
    """Return what *call* returns; it is called again through an outage."""
    patience = Patience(outage_s, on_trouble)
    while True:
        try:
            return await call()
        except OUTAGE as error:
            await patience.survived(error)


async def wait_end(
    get: Get,
    *,
    timeout_s: float | None,
    outage_s: float,
    on_trouble: Trouble | None = None,
    on_rest: Rest | None = None,
) -> RunView:
    """Return the run's view once it has ended, or the view after *timeout_s*."""
    until = None if timeout_s is None else _now() + timeout_s
    patience, told = Patience(outage_s, on_trouble), ""
    while True:
        left_s = WAIT_CHUNK_S if until is None else max(until - _now(), 0.0)
        try:
            view = await get(min(left_s, WAIT_CHUNK_S))
        except OUTAGE as error:
            await patience.survived(error)
            continue
        patience.fine()
        if view.state in ENDED or (until is not None and _now() >= until):
            return view
        # Times in a reason run on; it is the same one for all that.
        reason = _NUMBER.sub("", view.reason)
        if on_rest is not None and reason and reason != told:
            told = reason
            on_rest(view)


async def changes(
    get: Get,
    transport: Transport,
    shard: int,
    *,
    outage_s: float,
    on_trouble: Trouble | None = None,
) -> AsyncIterator[RunView]:
    """Yield the run's view now and after each change, the last one when it has ended.

    The public feed only says *that* something happened in the shard; the view is fetched again,
    at most every 100 ms, and every 2 s whether or not anything was heard.
    """
    changed = asyncio.Event()
    patience = Patience(outage_s, on_trouble)
    unsubscribe = await transport.subscribe(subjects.events(shard), lambda _: changed.set())
    seen = b""
    try:
        while True:
            changed.clear()
            try:
                view = await get(0.0)
            except OUTAGE as error:
                await patience.survived(error)
                continue
            patience.fine()
            encoded = msgspec.msgpack.encode(view)
            if encoded != seen:
                seen = encoded
                yield view
            if view.state in ENDED:
                return
            await asyncio.sleep(REFRESH_S_MIN)
            try:
                async with asyncio.timeout(POLL_S):
                    await changed.wait()
            except TimeoutError:
                pass
    finally:
        await unsubscribe()


async def log_lines(
    get: Get, transport: Transport, shard: int, key: str, *, step: str = "", follow: bool = False
) -> AsyncIterator[LogLines]:
    """Yield what the run's steps wrote, each line once, in the order of the stream.

    *step* is a step's path, a path that it lies below, or its last part. With *follow*, goes on
    until the run has ended and nothing more came.
    """
    subject = subjects.step_logs(shard, key)
    doubles = Doubles()
    heard = asyncio.Event()
    after = 0
    unsubscribe = await transport.subscribe(subject, lambda _: heard.set()) if follow else None
    try:
        while True:
            heard.clear()
            ended = not follow or await _has_ended(get)
            try:
                stored = transport.stored(subjects.LOGS_STREAM, subject, after=after)
                async for sequence, data in stored:
                    after = sequence
                    lines = doubles.fresh(decode(LogLines, data))
                    if lines is not None and chosen(lines.path, step):
                        yield lines
            except Unreachable:
                if not follow:
                    raise
                ended = False
            if ended:
                return
            try:
                async with asyncio.timeout(LOGS_POLL_S):
                    await heard.wait()
            except TimeoutError:
                pass
    finally:
        if unsubscribe is not None:
            await unsubscribe()


async def _has_ended(get: Get) -> bool:
    try:
        return (await get(0.0)).state in ENDED
    except (Unreachable, Busy, NotFound):
        return False


class Doubles:
    """Drops lines that were seen: workers send a message again when in doubt."""

    def __init__(self) -> None:
        self._next: dict[tuple[int, int], int] = {}

    def fresh(self, lines: LogLines) -> LogLines | None:
        """Return *lines* without those that were seen before, or None if none is left."""
        key = (lines.step, lines.attempt)
        expected = self._next.get(key, 0)
        end = lines.first + len(lines.lines)
        if end <= expected:
            return None
        self._next[key] = end
        if lines.first >= expected:
            return lines
        kept = lines.lines[expected - lines.first :]
        return msgspec.structs.replace(lines, first=expected, lines=kept)


def chosen(path: str, step: str) -> bool:
    """Tell whether the user meant the step at *path* by *step* (empty: every step)."""
    return not step or path == step or path.startswith(f"{step}/") or path.endswith(f"/{step}")


def _now() -> float:
    return asyncio.get_running_loop().time()
