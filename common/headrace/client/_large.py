"""Values that are too large for a message: into the object store before a request, and back."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from headrace.client._calls import Calls
from headrace.errors import LimitExceeded, NotFound
from headrace.messages import RunView, encode, subjects
from headrace.payloads import Blob, filled, oversized, reference_to

TOGETHER_BYTES_MAX = 256 * 1024
"""Of the values that stay in one request; half of what an owner takes inline."""
_ordered = msgspec.msgpack.Encoder(order="deterministic").encode


class LargeValues:
    """Claim checks of one client. A cluster without an object store keeps everything inline."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def check(self, size: int, what: str) -> None:
        """Raise `LimitExceeded` when *size* bytes are over what the cluster takes at all."""
        limit = self._calls.payload_max
        if limit and size > limit:
            raise LimitExceeded(
                f"the {what} has {size} bytes, the cluster takes {limit} (limits.payload_bytes_max)"
            )

    def fits(self, size: int) -> bool:
        """Tell whether a value, or a map as a whole, of *size* bytes goes as it is."""
        inline = self._calls.payload_inline
        return not inline or size <= inline

    async def check_in(self, run: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return *values* with the large ones in the store, and references in their place.

        The names in the store come from the contents: the same values give the same references,
        so that a submit sent again is the same submit.
        """
        sizes = {name: len(encode(value)) for name, value in values.items()}
        chosen = oversized(
            sizes,
            inline_bytes=self._calls.payload_inline,
            together_bytes=TOGETHER_BYTES_MAX,
        )
        result = dict(values)
        for name in chosen:
            result[name] = await self.put(run, values[name])
        return result

    async def slim(self, run: str, value: Any, what: str) -> Any:
        """Return one *value* with what is large in it, or all of it, in the store.

        The fields of a map go one by one, so that expressions still read the others. Raises
        `LimitExceeded`, and the store's errors.
        """
        size = len(encode(value))
        self.check(size, what)
        if self.fits(size):
            return value
        if isinstance(value, dict) and all(isinstance(name, str) for name in value):
            return await self.check_in(run, value)
        return await self.put(run, value)

    async def put(self, run: str, value: Any) -> dict[str, Any]:
        """Store one value for *run*; return its reference."""
        digest = hashlib.blake2b(_ordered(value), digest_size=20).hexdigest()
        name = f"{subjects.run_key(self._calls.namespace, run)}/{digest}"
        data = encode(value)
        await self._calls.transport.put_object(subjects.BLOB_BUCKET, name, data)
        return reference_to(name, len(data))

    async def fill(self, view: RunView) -> RunView:
        """Return *view* with whole values in its input, its output and its steps' outputs.

        A reference to what is gone (deleted with the run that it was made for) stays.
        """
        known: dict[str, bytes] = {}

        async def fetch(blob: Blob) -> bytes:
            data = known.get(blob.ref)
            if data is None:
                try:
                    data = await self._calls.transport.get_object(subjects.BLOB_BUCKET, blob.ref)
                except NotFound:
                    data = encode(reference_to(blob.ref, blob.size))
                known[blob.ref] = data
            return data

        steps = [
            msgspec.structs.replace(step, outputs=await filled(step.outputs, fetch))
            for step in view.steps
        ]
        return msgspec.structs.replace(
            view,
            input=await filled(view.input, fetch),
            output=await filled(view.output, fetch),
            steps=steps,
        )
