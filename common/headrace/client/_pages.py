"""One list out of many: merges the pages of all shards and of the archive. Knows no network.

Every source lists its runs newest first, by (created_ms, id). The combined cursor holds, for each
source, the cursor of the page that was last read from it, and the key of the last run handed out.
A source's page is read again and what was handed out already is dropped by its key: so a run that
moves from a shard to the archive between two pages is neither lost nor shown twice.

Nor is one that moves *while* a page is put together. A run is in the archive before it leaves its
shard, so the archive is always asked last: whatever a shard did not show any more, it has. When a
shard's next page is read in the middle of the work, the archive's page in hand is read again.

A source's page may be short, or empty, and still have a cursor: of a filter that few runs pass, it
looks at so many runs an answer. It is asked on until it has one to show.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from headrace.errors import InvalidRequest, Unavailable
from headrace.messages import RunPage, RunView

ROUNDS_MAX = 1_000
"""Pages read from one source to find its next run; then the list is short, and has a cursor."""
_NEWEST = (2**62, "")
"""Before all runs."""

Fetch = Callable[[str, str], Awaitable[RunPage]]
"""(source, cursor) -> a page."""


class _Cursor(msgspec.Struct, frozen=True, array_like=True):
    created_ms: int
    run: str
    sources: dict[str, str]


def encode_cursor(created_ms: int, run: str, sources: dict[str, str]) -> str:
    """Return the combined cursor as text that fits a command line."""
    data = msgspec.msgpack.encode(_Cursor(created_ms, run, sources))
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decode_cursor(text: str) -> _Cursor:
    """Return the parts of a cursor; raises `InvalidRequest` on anything else."""
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return msgspec.msgpack.decode(data, type=_Cursor)
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise InvalidRequest(f"not a cursor: {text!r}") from error


def _key(run: RunView) -> tuple[int, str]:
    return run.created_ms, run.id


class _Source:
    """The runs of one source, newest first, read page by page as they are needed."""

    def __init__(self, name: str, cursor: str) -> None:
        self.name = name
        self._start = cursor
        """Where the page in hand begins."""
        self._next: str | None = cursor
        """Where the following page begins; None: there is none."""
        self._runs: list[RunView] = []

    async def fill(self, fetch: Fetch, after: tuple[int, str] | None) -> None:
        """Have a run in hand, unless the source has no more. *after*: all up to it is done."""
        for _ in range(ROUNDS_MAX):
            if not self.empty:
                return
            assert self._next is not None
            self._start = self._next
            page = await fetch(self.name, self._start)
            if page.cursor and page.cursor == self._start:
                raise Unavailable(f"{self.name} answers with the same page for ever")
            fresh = [run for run in page.runs if after is None or _key(run) < after]
            self._runs = fresh[::-1]
            self._next = page.cursor or None

    def forget(self) -> None:
        """Read the page in hand again when it is next needed."""
        self._runs, self._next = [], self._start

    @property
    def empty(self) -> bool:
        """Whether a page must be read to know the newest run."""
        return not self._runs and self._next is not None

    @property
    def head(self) -> RunView | None:
        """The newest run in hand."""
        return self._runs[-1] if self._runs else None

    def take(self) -> RunView:
        """Hand out the newest run."""
        return self._runs.pop()

    @property
    def more(self) -> bool:
        """Whether something is left, as far as is known."""
        return bool(self._runs) or self._next is not None

    @property
    def cursor(self) -> str:
        """Where reading must begin again, so that nothing is missed."""
        return self._start if self._runs or self._next is None else self._next


async def merge_pages(
    shards: Sequence[str], archives: Sequence[str], fetch: Fetch, *, limit: int, cursor: str = ""
) -> RunPage:
    """Return at most *limit* runs of all sources, newest first, and the cursor of the rest.

    Of two views of one run (it has just moved to the archive) the finished one is shown.
    Whatever *fetch* raises is passed on: half a list would be a lie.
    """
    state = decode_cursor(cursor) if cursor else None
    after = (state.created_ms, state.run) if state else None
    places = state.sources if state else {}
    opened = [_Source(name, places.get(name, "")) for name in shards]
    closed = [_Source(name, places.get(name, "")) for name in archives]
    sources = [*opened, *closed]
    runs: list[RunView] = []
    while True:
        await _fill(opened, closed, fetch, after)
        if any(source.empty for source in sources):
            # Long looked for, and not found yet: nothing older may be shown before it.
            break
        ready = [source for source in sources if source.head is not None]
        if len(runs) >= limit:
            # Some source may show the last run once more.
            ready = [source for source in ready if source.head and source.head.id == runs[-1].id]
        if not ready:
            break
        source = max(ready, key=lambda s: _key(s.head) if s.head else (0, ""))
        run = source.take()
        if not runs or runs[-1].id != run.id:
            runs.append(run)
        elif run.finished_ms:
            runs[-1] = run
        after = _key(run)
    if not any(source.more for source in sources):
        return RunPage(runs=runs)
    next_places = {source.name: source.cursor for source in sources if source.cursor}
    return RunPage(runs=runs, cursor=encode_cursor(*(after or _NEWEST), next_places))


async def _fill(
    opened: list[_Source], closed: list[_Source], fetch: Fetch, after: tuple[int, str] | None
) -> None:
    """Have the newest run of each source in hand, the archive's answer last."""
    stale = [source for source in opened if source.empty]
    if stale:
        await asyncio.gather(*(source.fill(fetch, after) for source in stale))
        for source in closed:
            source.forget()
    await asyncio.gather(*(source.fill(fetch, after) for source in closed))
