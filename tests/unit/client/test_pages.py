"""One list out of many."""

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.client import _pages
from headrace.client._pages import decode_cursor, merge_pages
from headrace.errors import InvalidRequest, Unavailable, Unreachable
from headrace.messages import RunPage, RunView


def run(created, name, **fields):
    return RunView(id=name, workflow="w", state="RUNNING", created_ms=created, **fields)


class Sources:
    """Sources that page by the key of the last run, as the servers do."""

    def __init__(self, runs, size):
        self.runs, self.size = {"archive": [], **runs}, size
        self.before_fetch = lambda source: None

    async def fetch(self, source, cursor):
        self.before_fetch(source)
        found = sorted(self.runs[source], key=lambda r: (r.created_ms, r.id), reverse=True)
        if cursor:
            created, name = cursor.split(":")
            found = [r for r in found if (r.created_ms, r.id) < (int(created), name)]
        page = found[: self.size]
        more = len(found) > len(page)
        return RunPage(runs=page, cursor=f"{page[-1].created_ms}:{page[-1].id}" if more else "")


async def merged(sources, **options):
    names = [name for name in sources.runs if name != "archive"]
    return await merge_pages(names, ["archive"], sources.fetch, **options)


def read_all(sources, limit, between=lambda page: None):
    async def read():
        pages, cursor = [], ""
        while True:
            page = await merged(sources, limit=limit, cursor=cursor)
            pages.append([r.id for r in page.runs])
            cursor = page.cursor
            if not cursor:
                return pages
            between(len(pages))

    return asyncio.run(read())


@given(
    placed=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 2)), max_size=25),
    size=st.integers(1, 5),
    limit=st.integers(1, 7),
)
def test_pages_show_every_run_once_newest_first(placed, size, limit):
    runs = {str(source): [] for source in range(3)}
    for number, (created, source) in enumerate(placed):
        runs[str(source)].append(run(created, f"r{number:02}"))
    pages = read_all(Sources(runs, size), limit)
    expected = sorted((r for s in runs.values() for r in s), key=lambda r: (r.created_ms, r.id))
    assert [name for page in pages for name in page] == [r.id for r in reversed(expected)]
    assert all(len(page) == limit for page in pages[:-1])
    assert len(pages) == 1 or pages[-1]


class Choosy(Sources):
    """Sources with a filter, that look at *size* runs an answer, however few of them pass."""

    def __init__(self, runs, size, wanted):
        super().__init__(runs, size)
        self.wanted = wanted

    async def fetch(self, source, cursor):
        page = await super().fetch(source, cursor)
        return RunPage(runs=[r for r in page.runs if r.id in self.wanted], cursor=page.cursor)


@given(
    placed=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 2)), max_size=25),
    wanted=st.sets(st.integers(0, 24), max_size=8),
    size=st.integers(1, 3),
    limit=st.integers(1, 7),
    patience=st.sampled_from([1, 2, 1_000]),
)
def test_short_and_empty_pages_are_gone_through(placed, wanted, size, limit, patience):
    runs = {str(source): [] for source in range(3)}
    for number, (created, source) in enumerate(placed):
        runs[str(source)].append(run(created, f"r{number:02}"))
    sources = Choosy(runs, size, {f"r{number:02}" for number in wanted})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_pages, "ROUNDS_MAX", patience)
        pages = read_all(sources, limit)
    expected = sorted((r for s in runs.values() for r in s), key=lambda r: (r.created_ms, r.id))
    shown = [r.id for r in reversed(expected) if r.id in sources.wanted]
    assert [name for page in pages for name in page] == shown
    assert patience < 1_000 or all(len(page) == limit for page in pages[:-1])


async def test_a_source_that_repeats_itself_is_an_error():
    async def fetch(source, cursor):
        return RunPage(runs=[], cursor="1:a")

    with pytest.raises(Unavailable, match="same page"):
        await merge_pages(["1"], [], fetch, limit=5)


@given(
    ages=st.lists(st.integers(1, 5), min_size=4, max_size=15),
    moves=st.lists(st.integers(0, 14), max_size=6),
    limit=st.integers(1, 4),
)
def test_a_run_that_is_archived_between_pages_is_neither_lost_nor_doubled(ages, moves, limit):
    runs = {"1": [], "archive": []}
    for number, created in enumerate(ages):
        runs["1" if number % 2 else "archive"].append(run(created, f"r{number:02}"))

    def move(page):
        for number in moves[page - 1 : page]:
            name = f"r{number:02}"
            for moved in [r for r in runs["1"] if r.id == name]:
                runs["1"].remove(moved)
                runs["archive"].append(moved)

    pages = read_all(Sources(runs, limit), limit, move)
    assert sorted(name for page in pages for name in page) == sorted(
        r.id for s in runs.values() for r in s
    )


@given(
    ages=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2)), min_size=3, max_size=15),
    moves=st.lists(st.sets(st.integers(0, 14), max_size=4), max_size=12),
    size=st.integers(1, 4),
    limit=st.integers(1, 8),
)
@example(ages=[(5, 0), (3, 0), (1, 2)], moves=[set(), set(), set(), {1}], size=1, limit=3).via(
    "the archive had answered when the second page of a shard was read"
)
@example(ages=[(5, 0), (3, 0), (1, 2)], moves=[set(), {0}], size=5, limit=3).via(
    "the run leaves its shard while the first pages are read"
)
def test_a_run_that_is_archived_between_two_answers_is_shown_once(ages, moves, size, limit):
    """Before any answer of any source, in the middle of a page, runs may leave their shard."""
    runs = {"1": [], "2": [], "archive": []}
    for number, (created, place) in enumerate(ages):
        runs[list(runs)[place]].append(run(created, f"r{number:02}"))
    sources = Sources(runs, size)
    coming = iter(moves)

    def move(_):
        for number in next(coming, ()):
            for shard in ("1", "2"):
                for moved in [r for r in sources.runs[shard] if r.id == f"r{number:02}"]:
                    sources.runs[shard].remove(moved)
                    sources.runs["archive"].append(moved)

    sources.before_fetch = move
    pages = read_all(sources, limit)
    assert sorted(name for page in pages for name in page) == [f"r{n:02}" for n in range(len(ages))]


async def test_the_archive_is_asked_when_every_shard_has_answered():
    order = []

    async def fetch(source, cursor):
        order.append(f"ask {source}")
        await asyncio.sleep(0)
        order.append(f"answer {source}")
        return RunPage(runs=[])

    await merge_pages(["1", "2"], ["archive"], fetch, limit=5)
    assert order[-2:] == ["ask archive", "answer archive"]
    assert set(order[:-2]) == {"ask 1", "answer 1", "ask 2", "answer 2"}


async def test_the_finished_one_of_two_views_is_shown():
    sources = Sources({"1": [run(5, "a")], "archive": [run(5, "a", finished_ms=9)]}, 5)
    page = await merged(sources, limit=1)
    assert [r.finished_ms for r in page.runs] == [9]


async def test_half_a_list_is_an_error():
    async def fetch(source, cursor):
        if source == "2":
            raise Unreachable("gone")
        return RunPage(runs=[])

    with pytest.raises(Unreachable):
        await merge_pages(["1", "2"], ["archive"], fetch, limit=5)


@pytest.mark.parametrize("text", ["x", "!!!!", "gaNh"])
def test_a_cursor_is_checked(text):
    with pytest.raises(InvalidRequest):
        decode_cursor(text)
