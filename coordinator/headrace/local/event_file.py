"""An event in a file: to try what it would begin."""

from __future__ import annotations

from typing import Final

import msgspec

from headrace.errors import InvalidRequest
from headrace.flowctl import read_json
from headrace.messages import Arrival, subjects

_KEYS: Final = frozenset(("subject", "data", "id", "headers", "time"))
_FORM: Final = (
    'an event is {"subject": "orders.created", "data": …}, and may have "id", "time" and "headers"'
)


def event_in(file: str, namespace: str) -> Arrival:
    """Return the event in a file, JSON or YAML (``-``: stdin). Raises `InvalidRequest`."""
    found = read_json(file)
    if not isinstance(found, dict):
        raise InvalidRequest(f"{file}: {_FORM}")
    subject = found.get("subject")
    if not isinstance(subject, str) or not subjects.valid_subject(subject):
        raise InvalidRequest(f"{file}: its subject is {subject!r:.80}; {_FORM}")
    unknown = sorted(found.keys() - _KEYS, key=str)
    if unknown:
        raise InvalidRequest(f"{file}: unknown key {unknown[0]!r:.80}; {_FORM}")
    headers = found.get("headers") or {}
    if not isinstance(headers, dict):
        raise InvalidRequest(f"{file}: its headers are no mapping; {_FORM}")
    try:
        data = found.get("data")
        raw = b"" if data is None else msgspec.json.encode(data)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidRequest(f"{file}: its data is no JSON: {error}") from error
    return Arrival(
        sequence=1,
        namespace=namespace,
        subject=subject,
        data=raw,
        time=str(found.get("time") or ""),
        headers={str(name): str(value) for name, value in headers.items()},
        id=str(found.get("id") or ""),
    )
