"""How a bundle is written: canonical JSON, digests of its parts, the chain of its events.

Every digest is SHA-256, in hex. Canonical JSON: UTF-8, keys sorted, nothing between tokens. The
chain: link 0 is the digest of `FORMAT`; link n that of link n-1 (32 bytes) and event n as
canonical JSON, without its own `link`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from headrace.evidence._keys import Signer
from headrace.messages import Seal

FORMAT: Final = "headrace-evidence/1"
SECTIONS: Final = ("plans", "run", "steps")
"""Parts of a bundle that are covered by one digest each; events have the chain."""

_sorted = msgspec.json.Encoder(order="sorted")


def canonical(value: Any) -> bytes:
    """Return *value* (plain data or structs) as canonical JSON; bytes become base64."""
    return _sorted.encode(value)


def digest_of(value: Any) -> str:
    """Return the digest of a value's canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def links(events: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the link of each event."""
    link = hashlib.sha256(FORMAT.encode()).digest()
    for event in events:
        link = hashlib.sha256(link + canonical(event)).digest()
        yield link.hex()


def history_digest(chunks: Iterable[bytes]) -> str:
    """Return the digest of a run's history: each chunk behind its length (4 bytes, little-endian).

    That is how the archive keeps it.
    """
    whole = hashlib.sha256()
    for chunk in chunks:
        whole.update(len(chunk).to_bytes(4, "little"))
        whole.update(chunk)
    return whole.hexdigest()


def seal_statement(key: str, seal: Seal) -> bytes:
    """Return what is signed of run *key* (``<namespace>/<run>``) when it is sealed."""
    facts = ["headrace-seal/1", key, seal.events, seal.history, seal.plan, seal.sealed_ms, seal.key]
    return canonical(facts)


def export_statement(bundle: Mapping[str, Any]) -> bytes:
    """Return what the export's digest is of: heads of all parts, the seal, the time, the key."""
    export = bundle["export"]
    told = {name: export[name] for name in ("time_ms", "key")}
    return canonical([FORMAT, bundle["head"], bundle["seal"], told])


def write(
    *,
    run: Any,
    plans: Mapping[str, bytes],
    events: Sequence[Any],
    chunks: Sequence[bytes],
    steps: Sequence[Any],
    seal: Seal | None,
    time_ms: int,
    signer: Signer | None = None,
) -> bytes:
    """Return a bundle's text. *run*, *events* (in order) and *steps* are structs or plain data."""
    plain: dict[str, Any] = msgspec.json.decode(
        canonical(
            {
                "format": FORMAT,
                "run": run,
                "plans": plans,
                "steps": steps,
                "history": chunks,
                "seal": seal,
            }
        )
    )
    entries: list[dict[str, Any]] = msgspec.json.decode(canonical(events))
    plain["events"] = [
        {**event, "link": link} for event, link in zip(entries, links(entries), strict=True)
    ]
    plain["head"] = head_of(plain, chunks)
    plain["export"] = export = {"time_ms": time_ms, "key": signer.key if signer else ""}
    statement = export_statement(plain)
    export["digest"] = hashlib.sha256(statement).hexdigest()
    export["signature"] = signer.sign(statement) if signer else ""
    return text_of(plain)


def head_of(bundle: Mapping[str, Any], chunks: Iterable[bytes]) -> dict[str, Any]:
    """Return the heads of a bundle's parts, made from the parts themselves."""
    events = bundle["events"]
    head: dict[str, Any] = {name: digest_of(bundle[name]) for name in SECTIONS}
    head["events"] = len(events)
    head["link"] = events[-1]["link"] if events else ""
    head["history"] = history_digest(chunks)
    return head


def text_of(bundle: Mapping[str, Any]) -> bytes:
    """Return the one text that a bundle has."""
    return msgspec.json.format(canonical(bundle), indent=1) + b"\n"
