import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.coordinator.archive import ArchivedRun, RunSummary, Segment
from headrace.coordinator.archive.records import (
    GROUP_BYTES,
    RECORD_BYTES,
    Archived,
    Blob,
    Expired,
    Piece,
    Unreadable,
    decode_group,
    decode_record,
    encode_group,
    encode_record,
    groups,
    portions,
)


def run(name, segments=1, **fields):
    made = {
        "namespace": "ns",
        "run": name,
        "workflow": "w",
        "state": "COMPLETED",
        "created_ms": 1,
        "finished_ms": 2,
        "plan": "p",
    }
    summary = RunSummary(**(made | fields))
    return ArchivedRun(summary, [Segment(n + 1, b"x") for n in range(segments)])


@pytest.mark.parametrize(
    "record",
    [
        Archived([run("a", labels={"k": "v"}).summary], [Blob("ns", "a", 1, 7, 2)]),
        Archived([], [Blob("ns", "a", 1, 0, 0, "ns/a/1/xyz")]),
        Expired([("ns", "a"), ("ns", "b")]),
    ],
)
def test_records_come_back(record):
    assert decode_record(encode_record(record)) == record


def test_what_the_first_release_wrote_is_read_for_ever():
    expired = "0178019bb4b062d2a44579c50b13c164120049b8086d"
    assert decode_record(bytes.fromhex(expired)) == Expired([("ns", "a"), ("ns", "b")])
    archived = (
        "017801258e4b0e01511045fdc52eeca00746861224127b90d25dcd8b56af53f568865620488c954fa7b1490f"
        "b39373cfe09e140efb27c112258510af24375e914291595ec489cd347b880387f9b0371a0ffa392388a5376e"
        "8c6b8736c276e7157ae7309a2ca5fcf22dffb9f28e0d1999ff866a9ec01413d9e942d745cac6b271dbda3d4d"
        "8034fd963364afc9695c30fa0b131beb34c7359293fa43e6c051e378f6ff14cacdcae54fad52a9200920e806"
        "9b0f025955a1"
    )
    summary = RunSummary(
        namespace="ns",
        run="a",
        workflow="w",
        state="FAILED",
        reason="exit code 3",
        created_ms=1,
        started_ms=2,
        finished_ms=3,
        labels={"k": "v"},
        priority=4,
        plan="p",
        fingerprint="f",
        rerun_of="b",
        events=5,
        shard=6,
    )
    assert decode_record(bytes.fromhex(archived)) == Archived(
        [summary], [Blob("ns", "a", 1, 7, 2), Blob("ns", "a", 9, 0, 0, "ns/a/9/x")]
    )
    assert decode_group(bytes.fromhex("0178019b7484393f2ff508030010a00360")) == [b"one", b""]


@given(st.lists(st.binary(max_size=50)))
def test_groups_come_back(parts):
    assert decode_group(encode_group(parts)) == parts


@given(st.binary(max_size=60))
def test_damaged_bytes_are_unreadable_never_something_else(payload):
    for decode in (decode_record, decode_group):
        for candidate in (payload, b"\x01" + payload):
            with pytest.raises(Unreadable):
                decode(candidate)


def test_a_cut_record_is_unreadable():
    whole = encode_record(Expired([("ns", "a")]))
    for end in range(len(whole)):
        with pytest.raises(Unreadable):
            decode_record(whole[:end])


def test_groups_are_bounded_and_in_order():
    sizes = [1, GROUP_BYTES - 1, 5, GROUP_BYTES * 3, 2, 2]
    pieces = [Piece("ns", str(n), 1, bytes(size)) for n, size in enumerate(sizes)]
    found = list(groups(pieces))
    assert [piece for group in found for piece in group] == pieces
    assert [[len(piece.data) for piece in group] for group in found] == [
        [1, GROUP_BYTES - 1],
        [5],
        [GROUP_BYTES * 3],
        [2, 2],
    ]
    assert list(groups([])) == []


def test_portions_are_bounded_and_in_order():
    runs = [run(f"r{n}", labels={"k": "v" * 20_000}) for n in range(20)]
    runs.append(run("many", segments=10_000))
    runs.append(run("last"))
    found = list(portions(runs))
    assert [one for portion in found for one in portion] == runs
    assert len(found) > 2
    for portion in found:
        if len(portion) > 1:
            blobs = [
                Blob("ns", one.summary.run, segment.first, 10**6, 3)
                for one in portion
                for segment in one.segments
            ]
            raw = Archived([one.summary for one in portion], blobs)
            assert len(encode_record(raw)) <= RECORD_BYTES
