"""Headers, statuses and subjects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bus._wire import Message, check_subject, encode_headers, parse_headers
from headrace.errors import InvalidRequest

names = st.from_regex(r"[A-Za-z0-9-]{1,20}", fullmatch=True)
values = st.from_regex(r"[!-~]([ -~]{0,30}[!-~])?", fullmatch=True)


@given(st.dictionaries(names, values, max_size=5))
def test_headers_come_back(headers: dict[str, str]):
    assert parse_headers(encode_headers(headers)) == headers


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb"])
def test_a_line_break_in_a_header_is_refused(value: str):
    with pytest.raises(InvalidRequest):
        encode_headers({"name": value})
    with pytest.raises(InvalidRequest):
        encode_headers({value: "value"})


@pytest.mark.parametrize(
    ("raw", "status", "text"),
    [
        (b"", 0, ""),
        (b"NATS/1.0\r\nA: b\r\n\r\n", 0, ""),
        (b"NATS/1.0 503\r\n\r\n", 503, ""),
        (b"NATS/1.0 404 No Messages\r\n\r\n", 404, "No Messages"),
        (b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 7\r\n\r\n", 100, "Idle Heartbeat"),
        (b"NATS/1.0 abc\r\n\r\n", 0, ""),
    ],
)
def test_the_in_line_status(raw: bytes, status: int, text: str):
    message = Message("s", "", b"", raw)
    assert (message.status, message.status_text) == (status, text)


def test_headers_beside_a_status_are_read():
    raw = b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 12\r\n\r\n"
    assert Message("s", "", b"", raw).headers == {"Nats-Pending-Messages": "12"}


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB x 0", "a\tb", "a\x00b"])
def test_a_subject_that_would_break_the_protocol_is_refused(subject: str):
    with pytest.raises(InvalidRequest):
        check_subject(subject)
