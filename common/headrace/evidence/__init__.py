"""Evidence: what a run did, in one file in which any change shows.

A bundle has the run's events in a hash chain, its history as the log held it, its plans, and a
record for each step. `write` makes one, `check` finds what does not fit together, `Signer` and
`signed` are the Ed25519 side of it. Decision 54 says what this proves, and against whom.
"""

from headrace.evidence._bundle import (
    FORMAT,
    canonical,
    digest_of,
    history_digest,
    links,
    seal_statement,
    write,
)
from headrace.evidence._check import Finding, Verdict, check, differences
from headrace.evidence._keys import Signer, load_public_key, signed

__all__ = [
    "FORMAT",
    "Finding",
    "Signer",
    "Verdict",
    "canonical",
    "check",
    "differences",
    "digest_of",
    "history_digest",
    "links",
    "load_public_key",
    "seal_statement",
    "signed",
    "write",
]
