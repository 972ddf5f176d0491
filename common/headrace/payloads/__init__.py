"""Payloads that are too large for a message: claim checks.

A large value lies in the blob bucket, and a reference travels in its place: a map with the single
key ``$blob``. It may stand for any value of an input, an output or a signal, or for the whole.
Clients and workers swap; coordinators only carry references. Pure: the store comes in.
"""

from headrace.payloads._blob import (
    BLOB_KEY,
    BLOB_NAME,
    Blob,
    filled,
    reference,
    reference_to,
    replaced,
)
from headrace.payloads._choose import oversized

__all__ = [
    "BLOB_KEY",
    "BLOB_NAME",
    "Blob",
    "filled",
    "oversized",
    "reference",
    "reference_to",
    "replaced",
]
