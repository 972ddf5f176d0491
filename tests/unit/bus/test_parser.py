"""The protocol, however it is cut into reads."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError

from headrace.bus._parser import LINE_BYTES_MAX, Parser


class Recorder:
    """Writes down what the parser tells."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.parser: Parser | None = None

    def deliver(self, sid: int, subject: bytes, reply: bytes, data: bytes, raw: bytes) -> None:
        self.told.append((sid, subject, reply, data, raw))

    async def _process_ping(self) -> None:
        self.told.append(("ping",))

    async def _process_pong(self) -> None:
        self.told.append(("pong",))

    async def _process_err(self, err_msg: str) -> None:
        self.told.append(("err", err_msg))
        if self.parser:
            self.parser.reset()

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.told.append(("info", info))


STREAM = (
    b"MSG a.b 1 5\r\nhello\r\n"
    b"PING\r\n"
    b"MSG a.b 12 _INBOX.x 0\r\n\r\n"
    b"+OK\r\n"
    b"HMSG s 3 20 25\r\nNATS/1.0\r\nA: bcd\r\n\r\n12\r\n3\r\n"
    b"HMSG s 3 r 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
    b'INFO {"max_payload": 7}\r\n'
    b"PONG\r\n"
    b"-ERR 'Slow Consumer'\r\n"
    b"MSG c 2 7\r\nMSG\r\nxx\r\n"
)
TOLD = [
    (1, b"a.b", b"", b"hello", b""),
    ("ping",),
    (12, b"a.b", b"_INBOX.x", b"", b""),
    (3, b"s", b"", b"12\r\n3", b"NATS/1.0\r\nA: bcd\r\n\r\n"),
    (3, b"s", b"r", b"", b"NATS/1.0 503\r\n\r\n"),
    ("info", {"max_payload": 7}),
    ("pong",),
    ("err", "Slow Consumer"),
    (2, b"c", b"", b"MSG\r\nxx", b""),
]


async def told(reads: list[bytes]) -> list[tuple[Any, ...]]:
    recorder = Recorder()
    parser = Parser(recorder)
    for read in reads:
        await parser.parse(read)
    return recorder.told


async def test_everything_in_one_read():
    assert await told([STREAM]) == TOLD


async def test_byte_by_byte():
    assert await told([STREAM[at : at + 1] for at in range(len(STREAM))]) == TOLD


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=8))
async def test_cut_anywhere(cuts: list[int]):
    edges = [0, *sorted(cuts), len(STREAM)]
    reads = [STREAM[a:b] for a, b in pairwise(edges)]
    assert await told(reads) == TOLD


async def test_a_large_payload_in_many_reads():
    data = bytes(range(256)) * 4000
    stream = b"MSG big 1 %d\r\n" % len(data) + data + b"\r\nPING\r\n"
    reads = [stream[at : at + 32768] for at in range(0, len(stream), 32768)]
    assert await told(reads) == [(1, b"big", b"", data, b""), ("ping",)]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HELLO\r\n",
        b"MSG a\r\n",
        b"MSG a x 5\r\n",
        b"MSG a 1 r q 5\r\n",
        b"x" * (LINE_BYTES_MAX + 1),
    ],
)
async def test_nonsense_is_refused(nonsense: bytes):
    with pytest.raises(ProtocolError):
        await told([nonsense])


async def test_bytes_of_a_connection_that_is_gone_are_dropped():
    recorder = Recorder()
    recorder.parser = Parser(recorder)
    await recorder.parser.parse(b"-ERR 'gone'\r\nMSG a 1 1\r\nx\r\nMSG a 1 9\r\n")
    await recorder.parser.parse(b"PING\r\n")
    assert recorder.told == [("err", "gone"), ("ping",)]
