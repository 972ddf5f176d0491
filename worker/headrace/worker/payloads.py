"""Swaps a step's large payloads for references and back (claim check; see `headrace.payloads`)."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.errors import Unavailable
from headrace.messages import subjects
from headrace.payloads import Blob, filled, oversized, reference_to
from headrace.worker.handlers import HandlerError
from headrace.worker.ports import BlobStore


class Payloads:
    """Swaps large payloads for references and back.

    Without a store everything stays inline: for the embedded engine, which has no messages.
    """

    def __init__(
        self,
        blobs: BlobStore | None = None,
        *,
        inline_bytes: int = 32 * 1024,
        bytes_max: int = 128 * 1024 * 1024,
    ) -> None:
        self._blobs = blobs
        self.inline_bytes = inline_bytes
        self.bytes_max = bytes_max

    async def outgoing(self, run: str, output: bytes) -> bytes:
        """Return *output* with its large values replaced by references.

        What is small stays readable for expressions. Only a map that is large by the number of
        its keys goes as a whole. Raises `HandlerError` (`result-too-large`) over the hard limit,
        `HeadraceError` when the store fails.
        """
        if len(output) <= self.inline_bytes:
            return output
        if len(output) > self.bytes_max:
            text = f"outputs take {len(output)} bytes, over the limit of {self.bytes_max}"
            raise HandlerError("result-too-large", text, retryable=False)
        if self._blobs is None:
            return output
        values = msgspec.msgpack.decode(output, type=dict[str, msgspec.Raw])
        sizes = {name: len(bytes(raw)) + len(name) + 5 for name, raw in values.items()}
        large = oversized(sizes, inline_bytes=self.inline_bytes, together_bytes=self.inline_bytes)
        small: dict[str, Any] = dict(values)
        for name in large:
            small[name] = await self._put(run, bytes(values[name]))
        rest = msgspec.msgpack.encode(small)
        if len(rest) <= self.inline_bytes:
            return rest
        return msgspec.msgpack.encode(await self._put(run, output))

    async def outgoing_value(self, run: str, value: bytes) -> bytes:
        """Return a reference to one *value* of any kind, which is over `inline_bytes`; without a
        store the value. Raises as `outgoing` does."""
        if len(value) > self.bytes_max:
            text = f"a value takes {len(value)} bytes, over the limit of {self.bytes_max}"
            raise HandlerError("result-too-large", text, retryable=False)
        if self._blobs is None:
            return value
        return msgspec.msgpack.encode(await self._put(run, value))

    async def _put(self, run: str, data: bytes) -> dict[str, Any]:
        assert self._blobs is not None
        return reference_to(await self._blobs.put(run, data), len(data))

    def incoming(self, run: str) -> Incoming:
        """Return the way in for one task of *run*: the hard limit is for all of it together."""
        return Incoming(run, self._blobs, self.bytes_max)


class Incoming:
    """Puts what references stand for in their place, for one task.

    Its methods raise `HandlerError` (`input-too-large`) when that is over the hard limit, or when
    a reference leaves the run's namespace (`not-allowed`); `Unavailable` without a store, and the
    store's own errors.
    """

    def __init__(self, run: str, blobs: BlobStore | None, bytes_max: int) -> None:
        self._blobs, self._bytes_max, self._left = blobs, bytes_max, bytes_max
        self._own = subjects.split_key(run)[0] + "/"

    async def decoded(self, inputs: msgspec.Raw | bytes) -> Any:
        """Return decoded *inputs*, filled."""
        return await self.filled(msgspec.msgpack.decode(inputs))

    async def filled(self, value: Any) -> Any:
        """Return *value* with every reference replaced by what it stands for."""
        return await filled(value, self._fetch)

    async def _fetch(self, blob: Blob) -> bytes:
        self._left -= blob.size
        if self._left < 0:
            text = f"inputs take over {self._bytes_max} bytes"
            raise HandlerError("input-too-large", text, retryable=False)
        if not blob.ref.startswith(self._own):
            # Inputs come from users, and another tenant's data is not theirs to name.
            text = f"inputs refer to another namespace: {blob.ref}"
            raise HandlerError("not-allowed", text, retryable=False)
        if self._blobs is None:
            raise Unavailable("inputs refer to the object store, and there is none here")
        return await self._blobs.get(blob.ref)
