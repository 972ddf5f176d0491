"""Closed runs as rows of the tables."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from headrace.coordinator.archive.store import RunSummary

INDEXED_BYTES_MAX: Final = 256
"""Longest text of a user's in an index entry, which PostgreSQL limits to a third of a page."""

encode_summary = msgspec.msgpack.Encoder().encode
decode_summary = msgspec.msgpack.Decoder(RunSummary).decode


def indexed(text: str) -> str:
    """Return *text* as index columns hold it: readable, bounded, different for different texts.

    PostgreSQL's text has no NUL. The whole text is in the summary.
    """
    text = text.replace("\\", "\\\\").replace("\0", "\\0")
    data = text.encode()
    if len(data) <= INDEXED_BYTES_MAX:
        return text
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return f"{data[: INDEXED_BYTES_MAX // 2].decode(errors='ignore')}\\#{digest}"


def run_columns(runs: Iterable[RunSummary]) -> list[list[Any]]:
    """Return the columns of `runs`: one list of values each."""
    return _columns(
        7,
        (
            (
                one.namespace,
                one.run,
                indexed(one.workflow),
                one.state,
                one.created_ms,
                one.finished_ms,
                encode_summary(one),
            )
            for one in runs
        ),
    )


def label_columns(runs: Iterable[RunSummary]) -> list[list[Any]]:
    """Return the columns of `labels`."""
    return _columns(
        7,
        (
            (
                one.namespace,
                indexed(name),
                indexed(value),
                one.state,
                one.created_ms,
                one.run,
                indexed(one.workflow),
            )
            for one in runs
            for name, value in one.labels.items()
        ),
    )


def _columns(width: int, rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
