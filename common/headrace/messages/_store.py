"""Large values and output lines, asked of a coordinator: for logins that reach no stream.

Sent to `subjects.store` of a namespace; names and runs outside of it are refused. A worker or a
client whose login reaches the streams reads and writes them itself.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

VERSION = 1


class GetObject(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Return chunks of the object *name* from behind sequence *after* on, and what it is."""

    version: int
    name: str
    after: int = 0
    count: int = 0
    """0: only what it is."""


class AddChunk(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Store the next chunk of an object; *nuid*: see `nuid_of`."""

    version: int
    nuid: str
    data: bytes


class NameObject(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Give the object of these chunks its name, in place of what has it."""

    version: int
    name: str
    nuid: str
    size: int
    digest: str
    """SHA-256, in base 64 for URLs."""


class TouchObject(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Make an object as young as a new one; `StoreReply.size` is -1 if none has this size."""

    version: int
    name: str
    size: int


class GetLines(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Return messages with output lines of a run, from behind sequence *after* on."""

    version: int
    subject: str
    """As `subjects.step_logs` makes it."""
    after: int = 0


StoreRequest: TypeAlias = GetObject | AddChunk | NameObject | TouchObject | GetLines


class StoreReply(msgspec.Struct, frozen=True, array_like=True):
    """The answer to each of them."""

    version: int
    code: str = ""
    """Of an error; empty: done."""
    message: str = ""
    size: int = -1
    """Of the object; -1: there is none."""
    chunks: int = 0
    digest: str = ""
    parts: list[tuple[int, bytes]] = []
    """(sequence in the stream, bytes)."""
    more: bool = False


def nuid_of(namespace: str, token: str) -> str:
    """Return the name that chunks of a namespace's object are stored under."""
    return f"{namespace}={token}"
