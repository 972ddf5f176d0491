import gzip
import pickle
import pickletools

import pytest

from headrace.coordinator.control.transcode import to_engine, to_wire, view_to_wire
from headrace.coordinator.control.wire import (
    AppendEntries,
    Entry,
    Envelope,
    Forward,
    InstallView,
    NextIndex,
    RequestVote,
    Vote,
    decode_envelope,
    encode_envelope,
)

# As pysyncobj pickles a call of its method 0 (protocol 2: bytes as text).
COMMAND = b"\x00" + pickle.dumps((0, (b"\xff\x00payload",)), 2)
NO_OP = b"\x01"


def append(entries, **changes):
    return {
        "type": "append_entries", "term": 3, "commit_index": 7, "prevLogIdx": 6, "prevLogTerm": 2,
        "entries": entries, **changes,
    }  # fmt: skip


def test_entries_lose_their_pickles_and_get_new_ones():
    wire = to_wire(append([(COMMAND, 7, 3), (NO_OP, 8, 3)]))
    assert wire == AppendEntries(3, 7, 6, 2, [Entry(b"\xff\x00payload", 7, 3), Entry(None, 8, 3)])
    engine = to_engine(wire)
    assert engine["prevLogIdx"] == 6
    command, index, term = engine["entries"][0]
    assert (index, term) == (7, 3)
    assert command[:1] == b"\x00"
    assert pickle.loads(command[1:]) == (0, (b"\xff\x00payload",))
    assert engine["entries"][1] == (NO_OP, 8, 3)
    assert to_wire(engine) == wire


@pytest.mark.parametrize(
    ("engine", "wire"),
    [
        (
            {"type": "request_vote", "term": 1, "last_log_index": 2, "last_log_term": 3},
            RequestVote(1, 2, 3),
        ),
        ({"type": "response_vote", "term": 4}, Vote(4)),
    ],
)
def test_plain_messages_go_both_ways(engine, wire):
    assert to_wire(engine) == wire
    assert to_engine(wire) == engine


def test_forwarded_commits_ask_for_no_answer():
    wire = to_wire({"type": "apply_command", "command": COMMAND, "request_id": 4})
    assert wire == Forward(b"\xff\x00payload")
    assert set(to_engine(wire)) == {"type", "command"}


@pytest.mark.parametrize(
    "message",
    [
        append([], prevLogIdx=None),
        {"type": "timeout_now", "term": 1},
        {"type": "apply_command_response", "request_id": 1, "error": 4},
        {"type": "apply_command", "command": NO_OP},
    ],
)
def test_never_sent(message):
    assert to_wire(message) is None


def test_membership_and_version_commands_break_an_invariant():
    for kind in (b"\x02", b"\x03"):
        with pytest.raises(AssertionError):
            to_wire(append([(kind + pickle.dumps(["add", "x"]), 7, 3)]))


def test_a_snapshot_travels_as_plain_bytes():
    snapshot = gzip.compress(
        pickle.dumps(({"view": b"VIEW"}, (COMMAND, 9, 3), (NO_OP, 8, 3), set()))
    )
    message = {"type": "append_entries", "term": 3, "commit_index": 9, "serialized": ()}
    wire = view_to_wire(message, snapshot)
    assert wire == InstallView(3, 9, b"VIEW", Entry(None, 8, 3), Entry(b"\xff\x00payload", 9, 3))
    data, first, last = to_engine(wire)["serialized"]
    assert (first, last) == (True, True)
    content, newest, before, peers = pickle.loads(gzip.decompress(data))
    assert content == {"view": b"VIEW"}
    assert (newest[1:], before, peers) == ((9, 3), (NO_OP, 8, 3), [])


@pytest.mark.parametrize("evil", [pickle.dumps(print), b"cos\nsystem\n(S'true'\ntR.", b"\x80\x05."])
def test_what_a_peer_sent_is_data_in_our_pickle_never_code(evil):
    for message in (Forward(evil), InstallView(1, 1, evil, Entry(None, 1, 0), Entry(evil, 2, 1))):
        engine = to_engine(message)
        packed = (
            engine["command"][1:]
            if "command" in engine
            else gzip.decompress(engine["serialized"][0])
        )
        ops = {operation.name for operation, _, _ in pickletools.genops(packed)}
        assert not ops & {"GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "NEWOBJ", "BUILD"}


def test_all_messages_survive_the_wire():
    for message in (
        RequestVote(1, 2, 3),
        Vote(1),
        AppendEntries(1, 2, 3, 4, [Entry(b"x", 1, 2), Entry(None, 2, 2)]),
        InstallView(1, 2, b"v", Entry(None, 1, 1), Entry(b"x", 2, 1)),
        NextIndex(1, 2, True, False),
        Forward(b"x"),
    ):
        envelope = Envelope(1, "m", "a", 2, 3, 4, message)
        assert decode_envelope(encode_envelope(envelope)) == envelope
