"""Clients and coordinators: what a run did, in a form that shows any later change."""

from __future__ import annotations

import msgspec


class Seal(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the owner of a run's shard fixed when it had ended: kept beside its history."""

    events: int
    history: str
    """SHA-256 (hex) of the run's history as the log held it."""
    plan: str
    """Digest of the plan that it ended with."""
    sealed_ms: int
    key: str = ""
    """Public Ed25519 key (hex) of who signed; empty: nobody."""
    signature: str = ""
    """Of `headrace.evidence.seal_statement`, hex."""


class GetEvidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="evidence"):
    """Result: the text of an evidence bundle (bytes), see `headrace.evidence`."""

    run: str
