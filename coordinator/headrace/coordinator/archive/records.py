"""What the JetStream archive writes: subjects, record formats, groups of segments. Pure.

Two streams. `HEADRACE_ARCHIVE` holds the bytes: groups of segments, and plans. The index stream
holds small records in the order in which they count: *Archived* (runs, and where the bytes of
segments are), and *Expired* (runs that are no more). A record refers to bytes that were stored
before it, so what a record says is always there; bytes without a record are nobody's.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

import msgspec

from headrace.coordinator.archive.store import ArchivedRun, RunSummary
from headrace.errors import HeadraceError

T = TypeVar("T")

STREAM: Final = "HEADRACE_ARCHIVE"
INDEX_STREAM: Final = "HEADRACE_ARCHIVE_INDEX"
BUCKET: Final = "headrace-archive"
"""Segments and plans that are too large for a message."""

DATA: Final = "headrace.archived.data"
INDEX: Final = "headrace.archived.index"
PLANS: Final = "headrace.archived.plan.*"

GROUP_BYTES: Final = 256 * 1024
"""Raw segments of this many bytes share a message."""
RECORD_BYTES: Final = 192 * 1024
"""A record is closed when its summaries have this many bytes."""
MESSAGE_BYTES_MAX: Final = 512 * 1024
"""Larger things go to the object store."""

_ZLIB_LEVEL: Final = 1
"""Histories are repetitive: level 1 takes most of what level 6 would, at a third of the time."""
_INFLATED_BYTES_MAX: Final = 1024 * 1024 * 1024

_V1: Final = b"\x01"


class Blob(msgspec.Struct, frozen=True, array_like=True):
    """Where a segment is: part of a data message, or an object of its own."""

    namespace: str
    run: str
    first: int
    sequence: int
    """Of the data message; 0: an object."""
    part: int = 0
    object: str = ""


class Archived(msgspec.Struct, frozen=True, array_like=True, tag="a"):
    """Closed runs, and segments of these or of live runs."""

    runs: list[RunSummary]
    blobs: list[Blob]


class Expired(msgspec.Struct, frozen=True, array_like=True, tag="x"):
    """Runs that retention has deleted: all that earlier records say of them is void."""

    keys: list[tuple[str, str]]
    """(namespace, run)"""


Record = Archived | Expired

_encode = msgspec.msgpack.Encoder().encode
_decode_record: Callable[[bytes], Record] = msgspec.msgpack.Decoder(Archived | Expired).decode
_decode_group = msgspec.msgpack.Decoder(list[bytes]).decode


class Unreadable(HeadraceError):
    """A stored record or group is not what this release writes or knows."""


def plan_subject(digest: str) -> str:
    """Return the subject that holds one plan."""
    return PLANS.replace("*", digest)


def encode_record(record: Record) -> bytes:
    """Return the payload of an index message."""
    return _V1 + zlib.compress(_encode(record), _ZLIB_LEVEL)


def decode_record(payload: bytes) -> Record:
    """Return the record of an index message; raises `Unreadable`."""
    return _read(payload, _decode_record)


def encode_group(parts: list[bytes]) -> bytes:
    """Return the payload of a data message."""
    return _V1 + zlib.compress(_encode(parts), _ZLIB_LEVEL)


def decode_group(payload: bytes) -> list[bytes]:
    """Return the parts of a data message; raises `Unreadable`."""
    return _read(payload, _decode_group)


class Piece(msgspec.Struct, frozen=True):
    """A segment on its way into the archive."""

    namespace: str
    run: str
    first: int
    data: bytes


def groups(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Yield *pieces* in order, in groups of about `GROUP_BYTES`; a large piece is alone."""
    group: list[Piece] = []
    size = 0
    for piece in pieces:
        if group and size + len(piece.data) > GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(piece)
        size += len(piece.data)
    if group:
        yield group


def portions(runs: Iterable[ArchivedRun]) -> Iterator[list[ArchivedRun]]:
    """Yield *runs* in order, in portions that fit into one record each.

    Data messages are made for one portion at a time, so each belongs to one record: when all that
    a record says of a message is void, the message is nobody's.
    """
    portion: list[ArchivedRun] = []
    size = 0
    for run in runs:
        cost = len(_encode(run.summary)) + len(run.segments) * (40 + len(run.summary.run))
        if portion and size + cost > RECORD_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(run)
        size += cost
    if portion:
        yield portion


def _read(payload: bytes, decode: Callable[[bytes], T]) -> T:
    if payload[:1] != _V1:
        raise Unreadable(f"format {payload[:1].hex() or 'none'} is not known to this release")
    try:
        inflater = zlib.decompressobj()
        raw = inflater.decompress(payload[1:], _INFLATED_BYTES_MAX)
        if not inflater.eof:
            raise Unreadable("cut off, or too large")
        return decode(raw)
    except (zlib.error, msgspec.DecodeError) as error:
        raise Unreadable(str(error)) from error
