"""Seals runs that have ended, and writes evidence bundles of live and closed ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from headrace.coordinator.core import Program
from headrace.coordinator.core.evidence import tell
from headrace.evidence import Signer, seal_statement, write
from headrace.messages import Seal
from headrace.telemetry import Clock, SystemClock


class Notary:
    """One coordinator's: with a key it signs what it seals and writes. From any thread."""

    def __init__(self, signer: Signer | None = None, clock: Clock | None = None) -> None:
        self._signer, self._clock = signer, clock or SystemClock()

    def seal(self, key: str, *, events: int, plan: str, packed: Iterable[bytes]) -> Seal:
        """Return the seal of run *key*, which has ended; *packed*: its segments, in order."""
        whole = hashlib.sha256()
        for data in packed:
            whole.update(data)
        by = self._signer.key if self._signer is not None else ""
        seal = Seal(events, whole.hexdigest(), plan, self._clock.now_ms(), by)
        if self._signer is None:
            return seal
        signature = self._signer.sign(seal_statement(key, seal))
        return msgspec.structs.replace(seal, signature=signature)

    def bundle(
        self,
        key: str,
        programs: Iterable[Program],
        chunks: Sequence[bytes],
        *,
        shard: int,
        seal: Seal | None = None,
        archived: bool = False,
    ) -> bytes:
        """Return the text of run *key*'s bundle. Raises `Unavailable`."""
        told = tell(key, programs, chunks, shard=shard)
        run = msgspec.structs.replace(told.view, steps=[], archived=archived)
        return write(
            run=run,
            plans=told.plans,
            events=told.entries,
            chunks=told.chunks,
            steps=told.steps,
            seal=seal,
            time_ms=self._clock.now_ms(),
            signer=self._signer,
        )
