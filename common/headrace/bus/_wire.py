"""Messages and headers as they stand on the wire. Pure.

The protocol: https://docs.nats.io/reference/reference-protocols/nats-protocol.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from headrace.errors import InvalidRequest

HEADER_LINE = b"NATS/1.0"
CRLF = b"\r\n"

_BLANK = re.compile(r"[\s\x00]")


class Message:
    """A received message. `data` is the payload; headers are parsed when first asked for."""

    __slots__ = ("_headers", "_raw", "data", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: bytes, raw: bytes = b"") -> None:
        self.subject, self.reply, self.data = subject, reply, data
        self._raw = raw
        self._headers: dict[str, str] | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Headers by name as sent (JetStream spells its own ``Nats-…``); empty without any."""
        if self._headers is None:
            self._headers = parse_headers(self._raw)
        return self._headers

    @property
    def status(self) -> int:
        """The broker's in-line status (100, 404, 408, 409, 503, …); 0 for an ordinary message."""
        raw = self._raw
        # "NATS/1.0 503 No Responders\r\n…" against "NATS/1.0\r\n…".
        if len(raw) < 12 or raw[8] != 0x20:
            return 0
        digits = raw[9:12]
        return int(digits) if digits.isdigit() else 0

    @property
    def status_text(self) -> str:
        """The words behind the status; empty without any."""
        if not self.status:
            return ""
        return self._raw[12 : self._raw.find(CRLF)].strip().decode("utf-8", "replace")

    def __repr__(self) -> str:
        return f"Message({self.subject!r}, reply={self.reply!r}, {len(self.data)} bytes)"


def parse_headers(raw: bytes) -> dict[str, str]:
    """Return the headers of a header block; lines that are not ``name: value`` are skipped."""
    headers: dict[str, str] = {}
    for line in raw.split(CRLF)[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.strip().decode("utf-8", "replace")] = value.strip().decode(
                "utf-8", "replace"
            )
    return headers


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Return the header block; raises `InvalidRequest` when a line break would break it."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    text = "\r\n".join(["NATS/1.0", *lines, "", ""])
    if text.count("\r") != len(lines) + 2 or text.count("\n") != len(lines) + 2:
        raise InvalidRequest("a header contains a line break")
    return text.encode()


def check_subject(subject: str) -> None:
    """Raise `InvalidRequest` unless *subject* can stand in a protocol line."""
    if not subject or _BLANK.search(subject):
        raise InvalidRequest(f"subject {subject!r} is empty or contains blanks")
