"""What functions and steps emit, as lines of the run's log: values to JSON in pieces, and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from headrace.errors import InvalidRequest
from headrace.messages import subjects
from headrace.sdk import _codec

LAST: Final = "emit:"
"""Beginning of the name of the log's stream that has a value, or the last piece of it."""
MORE: Final = "emit+:"
"""Of one that has a piece of a value that goes on."""
CHARS_MAX: Final = 8_000
"""Of a piece: a longer line of a log is cut."""
_BREAKS: Final = str.maketrans({mark: f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"})
"""Line breaks that JSON leaves as they are, and a log does not."""


def pieces(value: Any, stream: str) -> Iterator[tuple[str, str]]:
    """Return (stream of the log, line) for *value*. Raises `InvalidRequest`."""
    if not subjects.valid_name(stream):
        raise InvalidRequest(f"not a stream's name: {stream!r} (letters, digits, - and _)")
    text = _codec.to_json(value).translate(_BREAKS)
    return _cut(text, stream)


def _cut(text: str, stream: str) -> Iterator[tuple[str, str]]:
    while len(text) > CHARS_MAX:
        yield MORE + stream, text[:CHARS_MAX]
        text = text[CHARS_MAX:]
    yield LAST + stream, text


class Joined:
    """Values of one stream, from the lines of a log in their order."""

    def __init__(self, stream: str) -> None:
        self._last, self._more = LAST + stream, MORE + stream
        self._begun = ""

    def taken(self, stream: str, text: str) -> Iterator[Any]:
        """Yield the value that ends with this line, if one does.

        One of which pieces are missing is left out: lines may be dropped where there are too many.
        """
        if stream == self._more:
            self._begun += text
        elif stream == self._last:
            begun, self._begun = self._begun, ""
            for whole in dict.fromkeys((begun + text, text)):
                try:
                    value = msgspec.json.decode(whole)
                except msgspec.DecodeError:
                    continue
                yield value
                return
