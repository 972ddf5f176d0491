import pytest

from headrace.coordinator.control.transport import SEEN_EXPIRES_S, NatsTransport
from headrace.coordinator.control.wire import (
    AppendEntries,
    Envelope,
    Forward,
    NextIndex,
    RequestVote,
    Vote,
    decode_envelope,
    encode_envelope,
)
from headrace.errors import Busy

NEXT = NextIndex(1, 2, False, True)


class Side:
    """A transport, what it sent, and its clock."""

    def __init__(self, me="a", birth=100, mute_s=0.0, membership="m"):
        self.now_s, self.sent, self.error = 10.0, [], None
        self.transport = NatsTransport(
            me=me, peers=["a", "b", "c"], membership=membership, birth=birth,
            publish=self.publish, monotonic=lambda: self.now_s, mute_until_s=mute_s,
        )  # fmt: skip
        self.transport.link(True)

    def publish(self, subject, payload):
        if self.error:
            raise self.error
        self.sent.append((subject, payload))
        return True


def envelope(
    message=NEXT, *, sender="b", birth=1, to_birth=100, sequence=1, membership="m", version=1
):
    return encode_envelope(
        Envelope(version, membership, sender, birth, to_birth, sequence, message)
    )


def test_sends_under_the_peers_subject_in_order():
    side = Side()
    for _ in range(2):
        assert side.transport.send("b", Forward(b"x"))
    assert [subject for subject, _ in side.sent] == ["headrace.raft.b"] * 2
    assert [decode_envelope(data).sequence for _, data in side.sent] == [1, 2]


def test_sends_nothing_while_the_link_is_down():
    side = Side()
    assert side.transport.link(False)
    assert not side.transport.link(False)
    assert not side.transport.send("b", Forward(b"x"))
    assert side.sent == []


def test_a_fresh_replica_is_muted_for_votes_only():
    side = Side(mute_s=10.5)
    assert not side.transport.send("b", Vote(1))
    assert not side.transport.send("b", RequestVote(1, 1, 0))
    assert side.transport.send("b", NEXT)
    side.now_s = 10.5
    assert side.transport.send("b", Vote(1))


def test_back_pressure_is_a_message_not_sent():
    side = Side()
    side.error = Busy("full")
    assert not side.transport.send("b", NEXT)
    assert side.transport.refused == {"busy": 1}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "malformed"),
        (b"\x80", "malformed"),
        (envelope(version=2), "version"),
        (envelope(membership="other"), "stranger"),
        (envelope(sender="z"), "stranger"),
        (envelope(sender="a"), "stranger"),
        (envelope(to_birth=99), "former-life"),
        (envelope(Vote(1), to_birth=0), "former-life"),
        (envelope()[:-1], "malformed"),
    ],
)
def test_refuses(data, reason):
    side = Side()
    assert side.transport.receive(data) is None
    assert side.transport.refused == {reason: 1}


def test_questions_reach_whatever_life_there_is():
    side = Side()
    append = AppendEntries(1, 1, 1, 0, [])
    assert side.transport.receive(envelope(append, to_birth=7)).message == append


def test_drops_what_is_older_than_the_newest_seen():
    side = Side()
    assert side.transport.receive(envelope(sequence=5))
    for sequence in (5, 4):
        assert side.transport.receive(envelope(sequence=sequence)) is None
    assert side.transport.receive(envelope(sequence=6))
    assert side.transport.receive(envelope(birth=2, sequence=1))
    assert side.transport.receive(envelope(birth=1, sequence=7)) is None
    assert side.transport.receive(envelope(sender="c", sequence=1))
    assert side.transport.refused == {"old": 3}


def test_a_clock_set_back_does_not_shut_a_peer_out_for_ever():
    side = Side()
    assert side.transport.receive(envelope(birth=9))
    assert side.transport.receive(envelope(birth=3, sequence=50)) is None
    side.now_s += SEEN_EXPIRES_S
    assert side.transport.receive(envelope(birth=3, sequence=51))
    assert side.transport.receive(envelope(birth=3, sequence=51)) is None


def test_answers_name_the_life_they_are_for():
    side = Side()
    side.transport.receive(envelope(birth=42))
    side.transport.send("b", NEXT)
    assert decode_envelope(side.sent[0][1]).to_birth == 42
