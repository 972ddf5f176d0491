"""The tables follow from the records, however much of what is void has been deleted."""

import sqlite3

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.coordinator.archive import RunSummary, index, projection
from headrace.coordinator.archive.projection import Entry
from headrace.coordinator.archive.records import Archived, Blob, Expired

NS = "ns"


def summary(run, created_ms=1):
    return RunSummary(
        namespace=NS,
        run=run,
        workflow="w",
        state="COMPLETED",
        created_ms=created_ms,
        finished_ms=2,
        labels={"k": run},
        plan="p",
    )


def projected(entries):
    db = sqlite3.connect(":memory:", isolation_level=None)
    projection.create(db)
    fold(db, *entries)
    return db


def fold(db, *entries):
    projection.apply(db, entries, upto=max((entry.sequence for entry in entries), default=0))


def contents(db):
    runs = db.execute("SELECT namespace, run, summary FROM runs ORDER BY run").fetchall()
    labels = db.execute("SELECT * FROM labels ORDER BY run").fetchall()
    segments = db.execute(
        "SELECT namespace, run, first, sequence, part, object FROM segments ORDER BY run, first"
    ).fetchall()
    return runs, labels, segments


class Broker:
    """The two streams as far as they matter here."""

    def __init__(self):
        self.entries = {}
        self.messages = set()
        self.objects = set()
        self.next_entry = self.next_blob = 1

    def append(self, record):
        entry = Entry(self.next_entry, self.next_entry * 1_000, record)
        self.entries[self.next_entry] = entry
        self.next_entry += 1
        return entry

    def archive(self, runs, firsts, *, as_object):
        blobs = []
        sequence = 0
        if not as_object and firsts:
            sequence = self.next_blob
            self.next_blob += 1
            self.messages.add(sequence)
        for part, (run, first) in enumerate(firsts):
            name = ""
            if as_object:
                name = f"{run}/{first}/{self.next_blob}"
                self.next_blob += 1
                self.objects.add(name)
            blobs.append(Blob(NS, run, first, sequence, part, name))
        return self.append(Archived([summary(run, self.next_entry) for run in runs], blobs))

    def delete(self, sweep, steps):
        """Delete as the archive does, crashing after *steps* kinds."""
        kinds = [
            (self.objects.discard, sweep.objects),
            (self.messages.discard, sweep.messages),
            (lambda n: self.entries.pop(n, None), sweep.records),
            (lambda n: self.entries.pop(n, None), sweep.expiries),
        ]
        for delete, names in kinds[:steps]:
            for name in names:
                delete(name)


RUN = st.sampled_from(["a", "b", "c", "d"])
OPERATION = st.one_of(
    st.tuples(st.just("close"), st.lists(RUN, max_size=3), st.booleans()),
    st.tuples(st.just("segment"), RUN, st.integers(1, 3), st.booleans()),
    st.tuples(st.just("expire"), st.integers(1, 3)),
    st.tuples(st.just("sweep"), st.integers(0, 4), st.booleans()),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(OPERATION, max_size=25))
@example([("close", ["a", "b"], False), ("expire", 1), ("sweep", 4, True)])
@example([("segment", "a", 1, True), ("close", ["a"], False), ("expire", 1), ("sweep", 2, True)])
def test_a_rebuild_from_what_is_left_is_the_same(operations):
    broker = Broker()
    db = projected([])
    try:
        for operation in operations:
            match operation:
                case ("close", runs, as_object):
                    firsts = [(run, 9) for run in runs]
                    entry = broker.archive(runs, firsts, as_object=as_object)
                    fold(db, entry)
                case ("segment", run, first, as_object):
                    entry = broker.archive([], [(run, first)], as_object=as_object)
                    fold(db, entry)
                case ("expire", limit):
                    keys = index.finished(db, before_ms=10**9, limit=limit)
                    fold(db, broker.append(Expired(keys)))
                case ("sweep", steps, all_expiries):
                    before_ms = 10**9 if all_expiries else 0
                    found = projection.sweep(db, expiries_before_ms=before_ms, limit=100)
                    broker.delete(found, steps)
                    if steps == 4:
                        projection.swept(db, found)
            rebuilt = projected([broker.entries[n] for n in sorted(broker.entries)])
            try:
                assert contents(rebuilt) == contents(db)
            finally:
                rebuilt.close()
            for _, _, _, sequence, _, name in contents(db)[2]:
                assert (sequence in broker.messages) if sequence else (name in broker.objects)
    finally:
        db.close()


def test_all_space_is_freed_in_the_end():
    broker = Broker()
    entries = [
        broker.archive([], [("a", 1)], as_object=False),
        broker.archive(["a", "b"], [("a", 9), ("b", 1)], as_object=False),
        broker.archive(["b"], [("b", 1)], as_object=True),
        broker.archive(["c"], [("c", 1)], as_object=True),
    ]
    db = projected(entries)
    try:
        for limit in (1, 10):
            keys = index.finished(db, before_ms=10**9, limit=limit)
            fold(db, broker.append(Expired(keys)))
        for _ in range(2):
            found = projection.sweep(db, expiries_before_ms=10**9, limit=100)
            broker.delete(found, 4)
            projection.swept(db, found)
        assert (broker.entries, broker.messages, broker.objects) == ({}, set(), set())
        assert not projection.sweep(db, expiries_before_ms=10**9, limit=100)
        assert all(
            db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
            for table in set(projection._TABLES) - {"progress"}
        )
    finally:
        db.close()


def test_young_expiries_stay_for_those_who_follow():
    broker = Broker()
    db = projected(
        [broker.archive(["a"], [], as_object=False), broker.append(Expired([(NS, "a")]))]
    )
    try:
        projection.swept(db, projection.sweep(db, expiries_before_ms=0, limit=10))
        assert projection.sweep(db, expiries_before_ms=2_000, limit=10).expiries == []
        assert projection.sweep(db, expiries_before_ms=2_001, limit=10).expiries == [2]
    finally:
        db.close()


def test_the_oldest_message_that_matters():
    broker = Broker()
    db = projected([])
    try:
        assert projection.oldest_message(db) == 0
        fold(db, broker.archive(["a"], [("a", 1)], as_object=False))
        fold(db, broker.archive(["b"], [("b", 1)], as_object=False))
        assert projection.oldest_message(db) == 1
        fold(db, broker.append(Expired([(NS, "a")])))
        assert projection.oldest_message(db) == 2
    finally:
        db.close()


@pytest.mark.parametrize("limit", [1, 2])
def test_sweeps_are_bounded(limit):
    broker = Broker()
    runs = ["a", "b", "c", "d"]
    db = projected([broker.archive([run], [(run, 1)], as_object=False) for run in runs])
    try:
        fold(db, broker.append(Expired([(NS, run) for run in runs])))
        found = projection.sweep(db, expiries_before_ms=0, limit=limit)
        assert len(found.messages) == len(found.records) == limit
    finally:
        db.close()


def test_a_record_folded_twice_counts_once():
    broker = Broker()
    entry = broker.archive(["a"], [("a", 1)], as_object=False)
    db = projected([entry])
    try:
        fold(db, entry)
        assert not projection.sweep(db, expiries_before_ms=0, limit=10)
        projection.reset(db)
        fold(db, entry)
        assert [run for _, run, _ in contents(db)[0]] == ["a"]
    finally:
        db.close()
