"""Answers that do not fit into a message."""

import msgspec
import pytest

from headrace.bus import Message
from headrace.client._calls import Calls
from headrace.coordinator.runtime import replies as module
from headrace.coordinator.runtime.replies import MARGIN_BYTES, Replies
from headrace.errors import Busy, Unreachable
from headrace.messages import ClientReply, GetRun, Parts, ReplyBatch, decode, encode


class FakeBus:
    """Answers at once, and takes so much a message."""

    def __init__(self, limit):
        self.max_payload_bytes = limit + MARGIN_BYTES
        self.limit, self.sent, self.trouble = limit, [], None

    def subscribe(self, subject, callback):
        self.parts = callback
        return self

    def close(self):
        self.parts = None

    def respond(self, message, data):
        assert len(data) <= self.limit
        if self.trouble is not None:
            raise self.trouble
        self.sent.append(data)


class FakeClock:
    ms = 1_000

    def now_ms(self):
        return self.ms


def message(subject, data=b""):
    return Message(subject, "_INBOX.x", data, b"")


def whole(size):
    return encode(ReplyBatch(1, [ClientReply(msgspec.Raw(encode(b"x" * size)))]))


@pytest.fixture
def bus():
    return FakeBus(1_000)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def replies(bus, clock):
    replies = Replies(bus, clock, "c1")
    replies.start()
    return replies


class Asker:
    """A client's transport whose requests reach the coordinator's parts."""

    def __init__(self, bus, first):
        self.bus, self.first, self.asked = bus, first, 0

    async def request(self, subject, data, *, timeout_s):
        if not subject.startswith("headrace.parts."):
            return self.first
        self.asked += 1
        self.bus.parts(message(subject, data))
        return self.bus.sent.pop()


async def test_small_answers_go_as_they_are(bus, replies):
    replies.respond(message("q"), whole(100))
    assert bus.sent == [whole(100)]


async def test_a_large_answer_is_fetched_in_parts(bus, replies):
    replies.respond(message("q"), whole(4_500))
    asker = Asker(bus, bus.sent.pop())
    (reply,) = await Calls(asker, "default", timeout_s=1).exchange(
        "q", [GetRun(run="r")], timeout_s=1
    )
    assert decode(bytes, bytes(reply.result)) == b"x" * 4_500
    assert asker.asked == 5


async def test_what_is_not_kept_any_more_is_asked_anew(bus, replies, clock):
    replies.respond(message("q"), whole(4_500))
    first = bus.sent.pop()
    clock.ms += module.KEPT_MS_MAX + 1
    replies.respond(message("q"), whole(4_500))
    with pytest.raises(Unreachable):
        await Calls(Asker(bus, first), "default", timeout_s=1).exchange(
            "q", [GetRun(run="r")], timeout_s=1
        )


async def test_the_bytes_kept_are_bounded(bus, replies, monkeypatch):
    monkeypatch.setattr(module, "KEPT_BYTES_MAX", 10_000)
    subjects = []
    for _ in range(5):
        replies.respond(message("q"), whole(4_000))
        parts = decode(ReplyBatch, bus.sent.pop()).parts
        assert isinstance(parts, Parts)
        subjects.append(parts.subject)
    kept = []
    for subject in subjects:
        bus.parts(message(subject, encode(0)))
        kept.append(len(bus.sent.pop()))
    assert kept == [0, 0, 0, 1_000, 1_000]


async def test_an_answer_over_all_limits_is_refused_by_name(bus, replies, monkeypatch):
    monkeypatch.setattr(module, "KEPT_BYTES_MAX", 10_000)
    replies.respond(message("q"), whole(20_000))
    (reply,) = decode(ReplyBatch, bus.sent.pop()).replies
    assert reply.code == "limit-exceeded"


async def test_answering_never_raises(bus, replies):
    bus.trouble = Busy("too much")
    replies.respond(message("q"), whole(100))
    bus.parts(message("headrace.parts.c1.x", b"\xc1"))
