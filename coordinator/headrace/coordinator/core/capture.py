"""A state as it was at one moment, encoded piece by piece while it goes on changing.

Copy on write: what is small or never changes is taken at once; a run is encoded when its turn
comes, or just before it changes. The bytes and the hash are those that `encode_hashed` gives
at that moment. `verify` reads such bytes back in pieces, one run in memory at a time.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from heapq import merge
from io import BytesIO
from itertools import islice, pairwise
from operator import itemgetter
from typing import Any, TypeVar

import msgspec

from headrace.coordinator.core.pieces import array_head
from headrace.coordinator.core.snapshot import (
    SNAPSHOT_VERSION,
    BadSnapshot,
    StateImage,
    decode_image,
    decode_run,
    encode_run,
    key_images,
    namespace_images,
    sticky_images,
    variable_images,
)
from headrace.coordinator.core.state import UNREADABLE, Run, ShardState
from headrace.coordinator.core.trigger_image import image_of

T = TypeVar("T")

PIECE_RUNS = 100
"""Runs of one piece: a few milliseconds."""
PIECE_BYTES = 1024 * 1024
"""And their bytes, about."""
PIECE_KEPT = 20
"""Kept results of one piece, each of some 64 KiB at most."""
PIECE_ITEMS = 4_000
"""Small records of one piece."""

_encode = msgspec.msgpack.Encoder().encode
_FIELDS = len(StateImage.__struct_fields__)


class Capture:
    """One moment of a state. `keep` is to be called before a run changes (see `Tick.copying`)."""

    def __init__(self, state: ShardState) -> None:
        self.shard, self.position = state.shard, state.batch_position
        self.index = state.batch_index
        self._facts = (state.logged_ms, state.batch_hash, state.token_last)
        # A copy of a map of a million takes some 10 ms; sorting it is for the pieces.
        self._runs = {run.key: run for run in state.runs.records()}
        self._parked = state.runs.parked.copy()
        self._plans = sorted(state.plans.items())
        self._tombstones = list(state.tombstones.items())
        self._requests = list(state.requests.items())
        self._keys = key_images(state)
        self._outbox = list(state.outbox.items())
        self._snapshots, self._settings = list(state.snapshots), dict(state.settings)
        self._triggers, self._namespaces = image_of(state), namespace_images(state)
        self._sticky = sticky_images(state)
        self._kept = state.kept.image()
        self._variables = variable_images(state)
        self._now_ms = state.now_ms
        self._last = ""
        """Runs up to this key are encoded."""
        self._early: dict[Run, bytes] = {}
        """Those that were, before their turn."""
        self.cuts = array("Q")
        """Where in the bytes each run begins, and at last where they end."""
        self._buffer = BytesIO()
        self._digest = hashlib.blake2b(digest_size=16)

    def keep(self, run: Run) -> None:
        """*run* is about to change."""
        # One of a later moment may be encoded for nothing; it cannot be taken for an older one.
        if (
            run.events
            and run.key > self._last
            and run.created_ms <= self._now_ms
            and run.key not in self._parked
            and run not in self._early
        ):
            self._early[run] = encode_run(run)

    @property
    def data(self) -> bytes:
        """The state's bytes, once all `pieces` are made."""
        return self._buffer.getvalue()

    @property
    def hash(self) -> str:
        """Its hash, likewise."""
        return self._digest.hexdigest()

    def forget(self) -> None:
        """The bytes are stored: `data` is empty from now on."""
        self._buffer = BytesIO()

    def pieces(self) -> Iterator[None]:
        """Encode piece by piece; the state may change between two of them."""
        now_ms, batch_hash, token_last = self._facts
        # What a hash leaves out: the clock, and the batch's place (see `state_hash`).
        head = (SNAPSHOT_VERSION, self.shard)
        self._buffer.write(array_head(_FIELDS) + _fields(*head, now_ms))
        self._buffer.write(_encode([self.index, self.position, batch_hash]))
        self._digest.update(array_head(_FIELDS) + _fields(*head, 0, [self.index, 0, batch_hash]))
        keys = [*self._runs, *self._parked]
        self._write(_fields(token_last, self._plans) + array_head(len(keys)))
        yield
        ordered = yield from _in_order(keys, str)
        yield from self._encode_runs(ordered)
        yield from self._encode_records([(key, *tomb) for key, tomb in self._tombstones])
        yield from self._encode_records(self._requests)
        self._write(_fields(self._keys, sorted(self._outbox), self._snapshots, self._settings))
        self._write(
            _fields(self._triggers, self._namespaces, self._sticky) + array_head(len(self._kept))
        )
        for begin in range(0, len(self._kept), PIECE_KEPT):
            self._write(b"".join(map(_encode, self._kept[begin : begin + PIECE_KEPT])))
            yield
        self._write(_fields(self._variables))

    def _encode_runs(self, keys: Iterator[str]) -> Iterator[None]:
        parts: list[bytes] = []
        size, at = 0, self._buffer.tell()
        for key in keys:
            data = self._parked.get(key) or self._encoded(self._runs[key])
            self._last = key
            self.cuts.append(at)
            at += len(data)
            parts.append(data)
            size += len(data)
            if len(parts) >= PIECE_RUNS or size >= PIECE_BYTES:
                self._write(b"".join(parts))
                parts, size = [], 0
                yield
        self._write(b"".join(parts))
        self.cuts.append(at)
        self._early.clear()
        self._runs.clear()
        self._parked.clear()

    def _encoded(self, run: Run) -> bytes:
        return self._early.pop(run, None) or encode_run(run)

    def _encode_records(self, records: Sequence[tuple[Any, ...]]) -> Iterator[None]:
        self._write(array_head(len(records)))
        ordered = yield from _in_order(records, itemgetter(0))
        while piece := list(islice(ordered, PIECE_ITEMS)):
            self._write(b"".join(map(_encode, piece)))
            yield

    def _write(self, data: bytes) -> None:
        self._buffer.write(data)
        self._digest.update(data)


def verify(data: bytes, builtin: frozenset[str], cuts: Sequence[int]) -> Generator[None, None, str]:
    """Read a state's bytes piece by piece; return the hash of what they say.

    That of `state_hash` of the decoded state. *cuts*: where the runs are (see `Capture`); bytes
    that are not cut there are refused. Raises `BadSnapshot`.
    """
    count = len(cuts) - 1
    head = data[: cuts[0]]
    if not head.endswith(array_head(count)):
        raise BadSnapshot(f"unreadable snapshot: no {count} runs at byte {cuts[0]}")
    image = decode_image(head.removesuffix(array_head(count)) + array_head(0) + data[cuts[-1] :])
    yield
    state = ShardState(image.shard, builtin)
    state.plans = dict(image.plans)
    digest = hashlib.blake2b(array_head(_FIELDS), digest_size=16)
    index, _, batch_hash = image.batch
    digest.update(_fields(image.version, image.shard, 0, [index, 0, batch_hash]))
    digest.update(_fields(image.token_last, image.plans) + array_head(count))
    yield
    last = ""
    for number, (begin, end) in enumerate(pairwise(cuts), 1):
        try:
            run = decode_run(state, data[begin:end])
        except UNREADABLE as error:
            raise BadSnapshot(f"unreadable snapshot: run {number}: {error}") from error
        if run.key <= last:
            raise BadSnapshot(f"unreadable snapshot: run {run.key} is out of order")
        last = run.key
        digest.update(encode_run(run))
        if number % PIECE_RUNS == 0:
            yield
    for records in (image.tombstones, image.requests):
        digest.update(array_head(len(records)))
        for begin in range(0, len(records), PIECE_ITEMS):
            piece: Sequence[Any] = records[begin : begin + PIECE_ITEMS]
            digest.update(b"".join([_encode(record) for record in piece]))
            yield
    digest.update(_fields(image.keys, image.outbox, image.snapshots, image.settings))
    digest.update(_fields(image.triggers, image.namespaces, image.sticky, image.kept))
    digest.update(_fields(image.variables))
    return digest.hexdigest()


def _in_order(items: Sequence[T], key: Callable[[T], str]) -> Generator[None, None, Iterator[T]]:
    """Sort piece by piece; return an iterator over *items* in order."""
    parts: list[Iterable[T]] = []
    for begin in range(0, len(items), PIECE_ITEMS):
        parts.append(sorted(items[begin : begin + PIECE_ITEMS], key=key))
        yield
    return merge(*parts, key=key)


def _fields(*values: Any) -> bytes:
    return b"".join(map(_encode, values))
