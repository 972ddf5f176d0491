"""Lists of open runs: whatever is created, evicted and asked for, none is missed or shown twice.

The index is compared with all runs, sorted: of one namespace, filtered, behind any place.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from headrace.coordinator.core import Program, Run, ShardState, status, views
from headrace.coordinator.core.listing import Listing
from headrace.messages import ListRuns, RunView
from headrace.plan import Plan, plan_digest
from support.corechecks import BUILTIN
from support.plans import plan, task

PLANS = [plan(task("a"), name=name) for name in ("one", "two")]
STATES = (status.RUNNING, status.COMPLETED, status.FAILED)
NAMESPACES = ("default", "other", "default-2")


class Shard:
    """A state and its listing, as the tick keeps them; and what a list must be."""

    def __init__(self, block: int) -> None:
        self.state = ShardState(3, BUILTIN)
        self.listing = Listing(self.state.runs, block=block)
        self.programs = [self.program(found) for found in PLANS]
        self.now_ms = 1_000
        self.count = 0

    def program(self, found: Plan) -> Program:
        return Program(found, plan_digest(found), "default", BUILTIN)

    def create(self, namespace: str, first: int, count: int, kind: int) -> None:
        for number in range(count):
            self.create_one(f"{namespace}/r{(first + number) % 16}", kind + number)

    def create_one(self, key: str, kind: int) -> None:
        if key in self.state.runs:
            return
        run = Run(key, self.programs[kind % 2])
        run.created_ms, run.state = self.now_ms, status.RUNNING if kind % 7 else status.PENDING
        run.labels = {"third": str(kind % 3)}
        run.paused, run.quarantined = kind % 5 == 0, "why" if kind % 11 == 0 else ""
        run.status[1] = status.WAITING if kind % 4 == 0 else status.PENDING
        self.state.runs[key] = run
        self.listing.fresh.append(key)

    def end(self, key: str, state: int) -> None:
        self.state.runs[key].state = state
        self.listing.ended([self.state.runs[key]])

    def evict(self, *keys: str) -> None:
        for key in keys:
            del self.state.runs[key]
        self.listing.evicted(len(keys))

    def begin(self) -> None:
        if len(self.listing.fresh) >= self.listing.block:
            self.listing.order_fresh()

    def ask(self, namespace: str, query: ListRuns) -> tuple[list[RunView], str]:
        page = views.list_runs(self.state, self.listing, namespace, query)
        assert not isinstance(page, views.Refusal)
        return page.runs, page.cursor

    def naive(self, namespace: str, query: ListRuns) -> list[tuple[int, str]]:
        shown = [views.run_view(run, steps=False) for run in self.state.runs.values()]
        found = [
            (view.created_ms, view.id)
            for view in shown
            if view.namespace == namespace
            and view.created_ms >= query.since_ms
            and (not query.states or {view.state, *view.conditions}.intersection(query.states))
            and (not query.workflow or view.workflow == query.workflow)
            and query.labels.items() <= view.labels.items()
        ]
        return sorted(found, reverse=True)


def places(runs: list[RunView]) -> list[tuple[int, str]]:
    return [(run.created_ms, run.id) for run in runs]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places at every border: of blocks, of pages, of what one answer looks at."""
    monkeypatch.setattr(views, "SCANNED_MAX", 4)


create = st.tuples(
    st.just("create"),
    st.sampled_from(NAMESPACES),
    st.integers(0, 15),
    st.integers(1, 6),
    st.integers(0, 29),
)
steps = st.one_of(
    create,
    create,
    st.tuples(st.just("later"), st.integers(1, 3)),
    st.tuples(st.just("end"), st.integers(0, 99), st.sampled_from(STATES[1:])),
    st.tuples(st.just("evict"), st.integers(0, 99), st.integers(1, 4)),
    st.tuples(st.just("tick")),
    st.tuples(st.just("takeover")),
)
queries = st.builds(
    ListRuns,
    states=st.sampled_from(
        [
            *([], ["RUNNING"], ["COMPLETED"], ["FAILED", "COMPLETED"], ["PAUSED", "FAILED"]),
            *(["PENDING"], ["WAITING"], ["BLOCKED", "WAITING"]),
        ]
    ),
    workflow=st.sampled_from(["", "", "one"]),
    labels=st.sampled_from([{}, {}, {"third": "1"}]),
    since_ms=st.sampled_from([0, 0, 1_004]),
    limit=st.integers(1, 5),
)


def follow(shard: Shard, script: list[tuple[object, ...]]) -> None:
    for what, *arguments in script:
        if what == "create":
            shard.create(*arguments)  # type: ignore[arg-type]
        elif what == "later":
            shard.now_ms += arguments[0]  # type: ignore[operator]
        elif what == "tick":
            shard.begin()
        elif what == "takeover":
            shard.listing.rebuild()
        else:
            keys = list(shard.state.runs)
            at, much = arguments
            chosen = keys[at % len(keys) :] if keys else []  # type: ignore[operator]
            if what == "end":
                for key in chosen[:1]:
                    shard.end(key, much)  # type: ignore[arg-type]
            else:
                shard.evict(*chosen[:much])  # type: ignore[misc]


@given(
    script=st.lists(steps, max_size=40),
    block=st.integers(1, 6),
    query=queries,
    namespace=st.sampled_from(NAMESPACES),
)
@example(
    script=[
        *[("create", "default", 0, 3, 1), ("tick",), ("evict", 1, 1), ("later", 1)],
        *[("create", "default", 1, 1, 1)],
    ],
    block=3,
    query=ListRuns(limit=5),
    namespace="default",
).via("the place of a run that has gone is still there when its id comes again")
def test_pages_are_the_sorted_runs(script, block, query, namespace):
    shard = Shard(block)
    follow(shard, script)
    expected = shard.naive(namespace, query)
    found, cursor = [], ""
    for _ in range(100):
        page, cursor = shard.ask(namespace, replace(query, cursor=cursor))
        assert len(page) <= query.limit
        found += places(page)
        if not cursor:
            break
    assert found == expected
    # And from any place on, of a run or of none.
    for created_ms, name in [*expected, (1_002, "r5"), (1_002, "")]:
        behind = [place for place in expected if place < (created_ms, name)]
        page, cursor = shard.ask(namespace, replace(query, cursor=f"{created_ms}:{name}"))
        assert places(page) == behind[: len(page)]
        assert cursor or len(page) == len(behind)


@given(
    before=st.lists(steps, max_size=30),
    between=st.lists(st.lists(steps, max_size=6), max_size=30),
    block=st.integers(1, 6),
    limit=st.integers(1, 5),
)
@example(
    before=[("create", "default", 0, 9, 1)],
    between=[[("evict", 3, 2), ("tick",)], [("later", 1), ("create", "default", 3, 1, 1)]],
    block=2,
    limit=2,
).via("blocks are swept and joined while their runs are shown, and an id comes again")
def test_what_is_there_all_the_time_is_shown_once(before, between, block, limit):
    shard = Shard(block)
    follow(shard, before)
    always = set(shard.naive("default", ListRuns()))
    found: list[tuple[int, str]] = []
    cursor, coming = "", iter(between)
    for _ in range(200):
        page, cursor = shard.ask("default", ListRuns(limit=limit, cursor=cursor))
        found += places(page)
        if not cursor:
            break
        follow(shard, next(coming, []))
        always.intersection_update(shard.naive("default", ListRuns()))
    assert not cursor
    assert found == sorted(set(found), reverse=True)
    assert always <= set(found)


waves = st.tuples(
    st.integers(0, 4), st.integers(0, 4), st.sampled_from(["oldest", "newest"]), st.integers(1, 40)
)


@given(script=st.lists(waves, min_size=1, max_size=6), block=st.integers(2, 8))
@example(script=[(3, 3, "oldest", 40)] * 3, block=4).via("many come and go, and few are there")
@example(script=[(4, 1, "newest", 40), (0, 4, "oldest", 30)], block=8).via("many, then none")
def test_what_is_kept_of_gone_runs_is_bounded(script, block):
    """However many come and go, asked for or not."""
    shard = Shard(block)
    most = count = 0
    for created, gone, which, times in script:
        for _ in range(times):
            shard.now_ms += count % 2
            for extra in range(created):
                count += 1
                shard.create_one(f"{NAMESPACES[extra % 2]}/n{count}", 1)
            keys = list(shard.state.runs)
            shard.evict(*(keys[:gone] if which == "oldest" else keys[-gone or len(keys) :]))
            shard.begin()
            most = max(most, len(shard.state.runs))
            assert shard.listing.size <= 2 * most + 4 * block
