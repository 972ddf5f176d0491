"""What every archive promises, on every archive."""

import random

import pytest

from headrace.coordinator.archive import Archive, ArchivedRun, Segment
from headrace.coordinator.archive.store import LAST_EVENT
from headrace.errors import InvalidRequest, Unavailable
from headrace.messages import ListRuns
from support.archives import NS, closed, summary


async def ids(archive: Archive, namespace=NS, **query):
    page = await archive.list(namespace, ListRuns(**query))
    return [view.id for view in page.runs]


async def all_pages(archive: Archive, **query):
    found, cursor = [], ""
    for _ in range(1_000):
        page = await archive.list(NS, ListRuns(cursor=cursor, **query))
        found += [view.id for view in page.runs]
        cursor = page.cursor
        if not cursor:
            return found
    raise AssertionError("pages without end")


async def test_a_put_run_is_there_in_full(archive):
    one = closed(
        "r1",
        Segment(1, b"\x00one"),
        Segment(5, b"five"),
        reason="exit code 3",
        state="FAILED",
        started_ms=1_100,
        labels={"team": "a", "": "empty name"},
        priority=-3,
        fingerprint="f",
        rerun_of="r0",
        events=7,
        shard=4,
    )
    await archive.put([one])
    assert await archive.get(NS, "r1") == one.summary
    assert await archive.history(NS, "r1") == one.segments
    (view,) = (await archive.list(NS, ListRuns())).runs
    assert (view.id, view.state, view.reason, view.labels) == (
        "r1",
        "FAILED",
        "exit code 3",
        one.summary.labels,
    )
    assert (view.created_ms, view.started_ms, view.finished_ms) == (1_000, 1_100, 2_000)
    assert (view.namespace, view.workflow, view.priority, view.plan) == (NS, "hello", -3, "p1")
    assert (view.rerun_of, view.shard, view.events, view.archived) == ("r0", 4, 7, True)


async def test_what_is_not_there(archive):
    assert await archive.get(NS, "none") is None
    assert await archive.history(NS, "none") == []
    assert await archive.plan("none") is None
    page = await archive.list(NS, ListRuns())
    assert (page.runs, page.cursor) == ([], "")
    assert await archive.expire(before_ms=10**15, limit=10) == 0
    await archive.put([])


async def test_the_same_run_twice_is_one(archive):
    one = closed("r1", labels={"a": "1"})
    await archive.put([one, one])
    await archive.put([closed("r2"), one])
    assert await ids(archive) == ["r2", "r1"]
    assert await ids(archive, labels={"a": "1"}) == ["r1"]
    assert await archive.history(NS, "r1") == one.segments


async def test_the_first_record_of_a_run_stands(archive):
    await archive.put([closed("r1", Segment(1, b"first"), labels={"a": "1"})])
    await archive.put([closed("r1", Segment(1, b"second"), state="FAILED", labels={"b": "1"})])
    assert (await archive.get(NS, "r1")).state == "COMPLETED"
    assert await archive.history(NS, "r1") == [Segment(1, b"first")]
    assert await ids(archive, labels={"b": "1"}) == []
    assert await ids(archive, states=["FAILED"]) == []


async def test_segments_of_a_live_run_precede_its_end(archive):
    await archive.put_segment(NS, "r1", Segment(101, b"b"))
    await archive.put_segment(NS, "r1", Segment(1, b"a"))
    await archive.put_segment(NS, "r1", Segment(1, b"a"))
    assert await archive.history(NS, "r1") == [Segment(1, b"a"), Segment(101, b"b")]
    assert await archive.get(NS, "r1") is None
    assert await ids(archive) == []
    await archive.put([closed("r1", Segment(201, b"c"))])
    assert await archive.history(NS, "r1") == [
        Segment(1, b"a"),
        Segment(101, b"b"),
        Segment(201, b"c"),
    ]


@pytest.mark.parametrize(
    ("after", "upto", "firsts"),
    [
        (0, LAST_EVENT, [1, 101, 201]),
        (0, 100, [1]),
        (0, 0, []),
        (99, 100, [1]),
        (99, 101, [1, 101]),
        (100, LAST_EVENT, [101, 201]),
        (100, 200, [101]),
        (150, 160, [101]),
        (199, 201, [101, 201]),
        (5_000_000_000, LAST_EVENT, [201]),
    ],
)
async def test_a_part_of_a_history_has_the_segments_around_it(archive, after, upto, firsts):
    for first in (201, 1, 101):
        await archive.put_segment(NS, "r1", Segment(first, str(first).encode()))
    # Of another run, and not the first of it.
    await archive.put_segment(NS, "r2", Segment(51, b"51"))
    found = await archive.history(NS, "r1", after=after, upto=upto)
    assert found == [Segment(first, str(first).encode()) for first in firsts]
    assert await archive.history(NS, "r2", after=20) == [Segment(51, b"51")]


async def test_a_run_may_have_all_its_segments_already(archive):
    await archive.put_segment(NS, "r1", Segment(1, b"a"))
    await archive.put([ArchivedRun(summary("r1"), [])])
    assert await archive.history(NS, "r1") == [Segment(1, b"a")]
    assert await ids(archive) == ["r1"]


async def test_segments_of_all_sizes(archive):
    noise = random.Random(1).randbytes(3_000_000)
    await archive.put(
        [
            closed("large", Segment(1, noise), Segment(2, b"\x00" * 3_000_000)),
            closed("empty", Segment(1, b"")),
            closed("small", Segment(1, b"x")),
        ]
    )
    assert await archive.history(NS, "large") == [
        Segment(1, noise),
        Segment(2, b"\x00" * 3_000_000),
    ]
    assert await archive.history(NS, "empty") == [Segment(1, b"")]
    assert await archive.history(NS, "small") == [Segment(1, b"x")]


async def test_plans_are_kept_once(archive):
    await archive.put_plan("abc", b"plan")
    await archive.put_plan("abc", b"plan")
    assert await archive.plan("abc") == b"plan"
    assert await archive.plan("abd") is None


async def test_newest_first_by_creation_then_run(archive):
    await archive.put(
        [
            closed("b", created_ms=5),
            closed("a", created_ms=5),
            closed("c", created_ms=1, state="FAILED"),
            closed("d", created_ms=9, state="CANCELLED"),
        ]
    )
    assert await ids(archive) == ["d", "b", "a", "c"]


async def test_namespaces_are_apart(archive):
    await archive.put([closed("r1"), closed("r1", namespace="other", state="FAILED")])
    assert await ids(archive) == ["r1"]
    assert await ids(archive, namespace="other", states=["COMPLETED"]) == []
    assert (await archive.get("other", "r1")).state == "FAILED"
    assert await archive.get("third", "r1") is None


async def test_filters(archive):
    await archive.put(
        [
            closed("a", created_ms=1, workflow="build", labels={"env": "prod", "team": "x"}),
            closed("b", created_ms=2, workflow="build", labels={"env": "prod"}, state="FAILED"),
            closed("c", created_ms=3, workflow="test", labels={"env": "dev"}, state="CANCELLED"),
            closed("d", created_ms=4, workflow="test", labels={"env": "prod", "team": "x"}),
        ]
    )
    assert await ids(archive, states=["FAILED", "CANCELLED"]) == ["c", "b"]
    assert await ids(archive, states=["RUNNING", "COMPLETED"]) == ["d", "a"]
    assert await ids(archive, states=["RUNNING"]) == []
    assert await ids(archive, workflow="build") == ["b", "a"]
    assert await ids(archive, workflow="buil") == []
    assert await ids(archive, labels={"env": "prod"}) == ["d", "b", "a"]
    assert await ids(archive, labels={"env": "prod", "team": "x"}) == ["d", "a"]
    assert await ids(archive, labels={"env": "prod", "nope": ""}) == []
    assert await ids(archive, labels={"team": "x"}, workflow="test") == ["d"]
    assert await ids(archive, workflow="build", states=["COMPLETED"]) == ["a"]
    assert await ids(archive, since_ms=3) == ["d", "c"]
    assert await ids(archive, since_ms=2, labels={"env": "prod"}, states=["FAILED"]) == ["b"]


async def test_pages_hold_each_run_once(archive):
    chance = random.Random(7)
    runs = [
        closed(
            f"r{number:03}",
            created_ms=chance.randrange(40),
            state=chance.choice(["COMPLETED", "FAILED", "CANCELLED"]),
            workflow=chance.choice(["x", "y"]),
            labels={"k": chance.choice(["1", "2"]), f"l{chance.randrange(3)}": ""},
        )
        for number in range(150)
    ]
    await archive.put(runs)
    for query in (
        {},
        {"labels": {"k": "1"}},
        {"labels": {"k": "1", "l2": ""}},
        {"workflow": "x"},
        {"workflow": "y", "labels": {"l0": "", "k": "2"}, "states": ["FAILED", "COMPLETED"]},
        {"states": ["FAILED"], "since_ms": 11},
    ):
        want = sorted(
            (
                (one.summary.created_ms, one.summary.run)
                for one in runs
                if one.summary.state in query.get("states", [one.summary.state])
                and one.summary.workflow == query.get("workflow", one.summary.workflow)
                and one.summary.created_ms >= query.get("since_ms", 0)
                and query.get("labels", {}).items() <= one.summary.labels.items()
            ),
            reverse=True,
        )
        for limit in (1, 7, 1_000):
            assert await all_pages(archive, limit=limit, **query) == [run for _, run in want]


async def test_a_full_last_page_has_no_cursor(archive):
    await archive.put([closed("a"), closed("b")])
    assert (await archive.list(NS, ListRuns(limit=2))).cursor == ""
    assert (await archive.list(NS, ListRuns(limit=1))).cursor != ""


async def test_a_cursor_stays_valid_while_runs_come_and_go(archive):
    await archive.put([closed(f"r{n}", created_ms=n, finished_ms=n) for n in range(10, 20)])
    page = await archive.list(NS, ListRuns(limit=4))
    assert [view.id for view in page.runs] == ["r19", "r18", "r17", "r16"]
    await archive.put([closed("r99", created_ms=99), closed("r16b", created_ms=15)])
    assert await archive.expire(before_ms=14, limit=100) == 4
    page = await archive.list(NS, ListRuns(limit=4, cursor=page.cursor))
    assert [view.id for view in page.runs] == ["r16b", "r15", "r14"]
    assert page.cursor == ""


@pytest.mark.parametrize(
    "query",
    [
        {"cursor": "x"},
        {"cursor": "kgE="},
        {"cursor": "ä"},
        {"cursor": "ks__________oXI"},
        {"labels": {str(n): "" for n in range(100)}},
        {"since_ms": 2**63},
        {"since_ms": -1},
    ],
)
async def test_odd_queries_are_refused(archive, query):
    await archive.put([closed("a")])
    with pytest.raises(InvalidRequest):
        await archive.list(NS, ListRuns(**query))


@pytest.mark.parametrize(("limit", "count"), [(0, 1), (-5, 1), (10**9, 1_000)])
async def test_page_sizes_are_bounded(archive, limit, count):
    await archive.put([closed(f"r{n}") for n in range(1_001)])
    assert len(await ids(archive, limit=limit)) == count


async def test_known_are_closed_runs_until_they_expire(archive):
    keys = [(NS, "a"), (NS, "b"), ("other", "a"), (NS, "live")]
    assert await archive.known([]) == set()
    await archive.put([closed("a", finished_ms=10), closed("b", finished_ms=20)])
    await archive.put_segment(NS, "live", Segment(1, b"x"))
    assert await archive.known(keys) == {(NS, "a"), (NS, "b")}
    await archive.expire(before_ms=15, limit=5)
    assert await archive.known(keys) == {(NS, "b")}


async def test_expire_takes_the_oldest_ends_first(archive):
    await archive.put(
        [
            closed("a", created_ms=9, finished_ms=10, labels={"k": "v"}),
            closed("b", created_ms=1, finished_ms=30, labels={"k": "v"}),
            closed("c", created_ms=5, finished_ms=20),
        ]
    )
    assert await archive.expire(before_ms=10, limit=5) == 0
    assert await archive.expire(before_ms=30, limit=1) == 1
    assert await ids(archive) == ["c", "b"]
    assert await archive.expire(before_ms=30, limit=5) == 1
    assert await archive.get(NS, "a") is None
    assert await archive.history(NS, "a") == []
    assert await ids(archive, labels={"k": "v"}) == ["b"]
    assert await archive.history(NS, "b") == [Segment(1, b"b")]


async def test_expire_keeps_its_limit_among_equals(archive):
    await archive.put([closed(f"r{n}") for n in range(7)])
    counts = [await archive.expire(before_ms=2_001, limit=3) for _ in range(4)]
    assert counts == [3, 3, 1, 0]
    assert await ids(archive) == []


async def test_expire_spares_segments_of_live_runs(archive):
    await archive.put_segment(NS, "live", Segment(1, b"a"))
    await archive.put([closed("done", finished_ms=1)])
    assert await archive.expire(before_ms=10**12, limit=10) == 1
    assert await archive.history(NS, "live") == [Segment(1, b"a")]


async def test_an_expired_run_may_be_put_again(archive):
    await archive.put([closed("a")])
    await archive.expire(before_ms=10**12, limit=10)
    await archive.put([closed("a", Segment(1, b"again"))])
    assert await ids(archive) == ["a"]
    assert await archive.history(NS, "a") == [Segment(1, b"again")]


async def test_a_closed_archive_says_so(archive):
    await archive.close()
    await archive.close()
    with pytest.raises(Unavailable):
        await archive.put([closed("a")])
    with pytest.raises(Unavailable):
        await archive.list(NS, ListRuns())


async def test_keys_come_in_order_a_piece_at_a_time(archive):
    await archive.put([closed(f"r{number}") for number in (3, 1, 2)])
    await archive.put([closed("r0", namespace="another")])
    await archive.put_segment(NS, "live", Segment(1, b"x"))
    wanted = [("another", "r0"), (NS, "live"), (NS, "r1"), (NS, "r2"), (NS, "r3")]
    assert [tuple(key) for key in await archive.keys(after=("", ""), limit=10)] == wanted
    found = []
    after = ("", "")
    while some := await archive.keys(after=after, limit=2):
        assert len(some) <= 2
        found += [tuple(key) for key in some]
        after = tuple(some[-1])
    assert found == wanted
