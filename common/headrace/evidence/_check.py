"""What does not fit together in a bundle, and where."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from headrace.errors import InvalidRequest
from headrace.events import decode_chunk, event_name
from headrace.evidence._bundle import (
    FORMAT,
    SECTIONS,
    digest_of,
    export_statement,
    history_digest,
    links,
    seal_statement,
    text_of,
)
from headrace.evidence._keys import signed
from headrace.messages import UNREADABLE, HistoryEntry, Seal
from headrace.plan import decode_plan, plan_digest

PARTS = {"format", "run", "plans", "events", "history", "steps", "head", "seal", "export"}
FINDINGS_MAX = 20


class Finding(NamedTuple):
    """One thing that is not as it was written."""

    where: str
    """``events[12] (number 13)``, ``byte 4711``."""
    what: str


class Verdict(NamedTuple):
    """What came of a check; without findings the bundle is whole."""

    findings: list[Finding]
    run: str = ""
    """``<namespace>/<run id>``."""
    events: int = 0
    key: str = ""
    """Whose signature the bundle bears; empty: nobody's."""
    sealed: bool = False
    """The run's end was sealed, and this is the history that was."""


def check(text: bytes, *, key: str = "") -> Verdict:
    """Return what is wrong with a bundle. *key*: it must be signed by this one (hex)."""
    try:
        bundle = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        return Verdict([Finding("file", f"is no JSON: {error}")])
    if not isinstance(bundle, dict) or bundle.get("format") != FORMAT:
        return Verdict([Finding("format", f"is not {FORMAT}")])
    try:
        found = list(_findings(bundle, key))
        # Without these parts nothing of it can be said.
        facts = _facts(bundle)
    except (LookupError, TypeError, ValueError, AttributeError, *UNREADABLE) as error:
        return Verdict([Finding("file", f"is not in the form of a bundle: {error!r}")])
    return facts._replace(findings=(found or list(_bytes_findings(bundle, text)))[:FINDINGS_MAX])


def _facts(bundle: Mapping[str, Any]) -> Verdict:
    if set(bundle) != PARTS:
        return Verdict([])
    run, export = bundle["run"], bundle["export"]
    return Verdict(
        [],
        run=f"{run['namespace']}/{run['id']}",
        events=len(bundle["events"]),
        key=export["key"] if export["signature"] else "",
        sealed=bundle["seal"] is not None,
    )


def _findings(bundle: Mapping[str, Any], key: str) -> Iterator[Finding]:
    if set(bundle) != PARTS:
        odd = ", ".join(sorted(set(bundle) ^ PARTS))
        yield Finding("file", f"parts are missing or were added: {odd}")
        return
    events, head = bundle["events"], bundle["head"]
    chunks = [base64.b64decode(chunk, validate=True) for chunk in bundle["history"]]
    yield from _event_findings(events)
    yield from _history_findings(bundle["run"], events, chunks)
    for name in SECTIONS:
        if digest_of(bundle[name]) != head[name]:
            yield Finding(name, "is not what its digest was made of")
    if head["events"] != len(events):
        yield Finding("events", f"there are {len(events)}; {head['events']} were written")
    elif events and head["link"] != events[-1]["link"]:
        yield Finding("head.link", "is not the last event's link")
    if head["history"] != history_digest(chunks):
        yield Finding("history", "is not what its digest was made of")
    yield from _plan_findings(bundle["plans"])
    yield from _seal_findings(bundle)
    yield from _export_findings(bundle, key)


def _event_findings(events: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """The first place where the chain breaks: nothing behind it says more."""
    plain = [{name: event[name] for name in event if name != "link"} for event in events]
    for index, (event, link) in enumerate(zip(events, links(plain), strict=True)):
        where = f"events[{index}] (number {event['number']})"
        if event["number"] != index + 1:
            yield Finding(where, f"number {index + 1} should stand here")
            return
        msgspec.convert(plain[index], HistoryEntry)
        if event["link"] != link:
            yield Finding(where, "was changed, or what stood before it is gone")
            return


def _history_findings(
    run: Mapping[str, Any], events: Sequence[Mapping[str, Any]], chunks: Sequence[bytes]
) -> Iterator[Finding]:
    """The readable events are those of the history."""
    key, number = f"{run['namespace']}/{run['id']}", 0
    for index, data in enumerate(chunks):
        try:
            chunk = decode_chunk(data)
        except UNREADABLE as error:
            yield Finding(f"history[{index}]", f"cannot be read: {error}")
            return
        if chunk.run != key or chunk.first != number + 1:
            yield Finding(f"history[{index}]", f"is not {key} from event {number + 1} on")
            return
        for event in chunk.events:
            told = events[number] if number < len(events) else None
            kind = event_name(type(event))
            if told is None or (told["type"], told["time_ms"]) != (kind, chunk.time_ms):
                yield Finding(f"events[{number}]", f"the history has {kind} here")
                return
            number += 1
    if number != len(events):
        yield Finding(f"events[{number}]", "is not in the history")


def _plan_findings(plans: Mapping[str, str]) -> Iterator[Finding]:
    for digest, data in plans.items():
        try:
            plan = decode_plan(base64.b64decode(data, validate=True))
        except (binascii.Error, InvalidRequest, *UNREADABLE) as error:
            yield Finding(f"plans.{digest}", f"cannot be read: {error}")
            continue
        if plan_digest(plan) != digest:
            yield Finding(f"plans.{digest}", "is another plan")


def _seal_findings(bundle: Mapping[str, Any]) -> Iterator[Finding]:
    if bundle["seal"] is None:
        return
    seal = msgspec.convert(bundle["seal"], Seal)
    run, head = bundle["run"], bundle["head"]
    if (seal.events, seal.history) != (head["events"], head["history"]):
        yield Finding("seal", "the run was sealed with another history")
    if seal.signature:
        statement = seal_statement(f"{run['namespace']}/{run['id']}", seal)
        if not signed(statement, key=seal.key, signature=seal.signature):
            yield Finding("seal.signature", f"is not that of key {seal.key}")
    elif seal.key:
        yield Finding("seal.signature", "is missing")


def _export_findings(bundle: Mapping[str, Any], key: str) -> Iterator[Finding]:
    export, seal = bundle["export"], bundle["seal"] or {}
    if set(export) != {"time_ms", "key", "digest", "signature"}:
        yield Finding("export", "parts are missing or were added")
        return
    statement = export_statement(bundle)
    if hashlib.sha256(statement).hexdigest() != export["digest"]:
        yield Finding("export.digest", "is not that of head, seal and export")
    if export["signature"]:
        if not signed(statement, key=export["key"], signature=export["signature"]):
            yield Finding("export.signature", f"is not that of key {export['key']}")
    elif export["key"]:
        yield Finding("export.signature", "is missing")
    if key and key != export["key"]:
        by = f"by {export['key']}" if export["key"] else "by nobody"
        yield Finding("export.key", f"is signed {by}, not by {key}")
    if key and seal.get("key", key) not in ("", key):
        yield Finding("seal.key", f"is signed by {seal['key']}, not by {key}")


def _bytes_findings(bundle: Mapping[str, Any], text: bytes) -> Iterator[Finding]:
    """The file is written in one way only, so that there is nothing in it that nobody checks."""
    written = text_of(bundle)
    if written == text:
        return
    pairs = enumerate(zip(written, text, strict=False))
    at = next((n for n, (a, b) in pairs if a != b), min(len(written), len(text)))
    line = text[:at].count(b"\n") + 1
    yield Finding(f"byte {at} (line {line})", "says the same in another way than an export does")


def differences(text: bytes, other: bytes) -> list[Finding]:
    """Compare two whole bundles of one run, of which the second is the newer: what does it lack?

    Without findings all that the first says happened is in the second.
    """
    old, new = msgspec.json.decode(text), msgspec.json.decode(other)
    for name in ("namespace", "id"):
        if old["run"][name] != new["run"][name]:
            return [Finding(f"run.{name}", f"{new['run'][name]} is another run")]
    for index, event in enumerate(old["events"]):
        if index >= len(new["events"]):
            return [Finding(f"events[{index}]", "the run has no such event")]
        if event != new["events"][index]:
            return [Finding(f"events[{index}] (number {index + 1})", "is another one in the run")]
    if new["history"][: len(old["history"])] != old["history"]:
        return [Finding("history", "is another one in the run")]
    return []
