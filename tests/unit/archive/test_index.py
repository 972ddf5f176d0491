import sqlite3

import pytest

from headrace.coordinator.archive import RunSummary, index
from headrace.coordinator.archive.paging import Place, encode_cursor
from headrace.messages import ListRuns


@pytest.fixture
def db():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(index.SCHEMA)
    yield connection
    connection.close()


def summary(number, **fields):
    made = {
        "namespace": "ns",
        "run": f"r{number:05}",
        "workflow": "w",
        "state": "COMPLETED",
        "created_ms": number,
        "finished_ms": number + 10,
        "plan": "p",
    }
    return RunSummary(**(made | fields))


QUERIES = [
    {},
    {"states": ["FAILED"]},
    {"states": ["FAILED", "CANCELLED"]},
    {"workflow": "w"},
    {"workflow": "w", "states": ["FAILED"]},
    {"labels": {"a": "1"}},
    {"labels": {"a": "1", "b": "2"}},
    {"labels": {"a": "1"}, "workflow": "w", "states": ["COMPLETED"]},
]


@pytest.mark.parametrize("since_ms", [0, 5])
@pytest.mark.parametrize("cursor", ["", encode_cursor(Place(7, "r00007"))])
@pytest.mark.parametrize("query", QUERIES)
def test_every_listing_reads_ranges_of_an_index_in_order(db, query, cursor, since_ms):
    index.add(db, [summary(n, labels={"a": "1"}) for n in range(20)])
    statements = []
    db.set_trace_callback(statements.append)
    index.page(db, "ns", ListRuns(cursor=cursor, since_ms=since_ms, limit=3, **query))
    db.set_trace_callback(None)
    assert statements
    for statement in statements:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]
        searches = [line for line in plan if line.startswith(("SEARCH", "SCAN"))]
        for line in searches:
            # Scans are of results of the inner queries, at most a page for each state.
            stored = line.split()[1] in ("runs", "labels", "r", "l") or " USING " in line
            assert not (line.startswith("SCAN") and stored), plan
        ranges = [line for line in searches if " p USING " in line]
        assert ranges, plan
        for line in ranges:
            assert "state=?" in line, plan
            if cursor and since_ms:
                assert "created_ms" in line, plan


def test_the_narrowest_filter_drives(db):
    index.add(db, [summary(n, labels={"env": "prod"}) for n in range(500)])
    index.add(db, [summary(900, labels={"env": "prod", "rare": "x"}, workflow="odd")])
    for query in (
        {"labels": {"env": "prod", "rare": "x"}},
        {"labels": {"env": "prod"}, "workflow": "odd"},
    ):
        ranges = index._ranges("ns", ListRuns(**query))
        states = ("COMPLETED",)
        chosen = index._narrowest(db, ranges, states, ListRuns(**query), None)
        assert "x" in chosen.values or "odd" in chosen.values
        assert [view.id for view in index.page(db, "ns", ListRuns(**query)).runs] == ["r00900"]


def test_finding_runs_to_expire_reads_an_index(db):
    statements = []
    db.set_trace_callback(statements.append)
    index.finished(db, before_ms=10, limit=5)
    db.set_trace_callback(None)
    (plan,) = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statements[0]}")]
    assert "runs_by_finish" in plan


def test_adding_reads_no_more_than_its_keys(db):
    statements = []
    db.set_trace_callback(statements.append)
    index.add(db, [summary(1), summary(2)])
    index.remove(db, "ns", "r00001")
    db.set_trace_callback(None)
    for statement in statements:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]
        assert not [line for line in plan if line.startswith(("SCAN r ", "SCAN runs"))], plan


def test_removal_leaves_nothing(db):
    one = summary(1, labels={"a": "1", "b": "2"})
    index.add(db, [one], origin=7)
    assert index.remove(db, "ns", one.run) == 7
    assert index.remove(db, "ns", one.run) is None
    for table in ("runs", "labels"):
        assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_known_takes_many_keys(db):
    index.add(db, [summary(n) for n in range(1_500)])
    keys = [("ns", f"r{n:05}") for n in range(1_000, 2_000)]
    assert index.known(db, keys) == set(keys[:500])


def test_add_tells_what_is_new(db):
    assert index.add(db, [summary(1), summary(1, state="FAILED")]) == {("ns", "r00001")}
    assert index.add(db, [summary(1), summary(2)]) == {("ns", "r00002")}
    assert index.get(db, "ns", "r00001").state == "COMPLETED"
