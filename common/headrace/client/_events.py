"""Events from outside: published into a stream, which begins runs of what is registered."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from headrace.client._calls import Calls
from headrace.client._submit import MUTATION_S
from headrace.errors import InvalidRequest, LimitExceeded, Unreachable
from headrace.messages import ListTriggers, TriggerView, subjects
from headrace.telemetry import current_traceparent

ATTEMPT_S = 2.0
PAUSE_S = 0.2
ID_LENGTH_MAX = 256


class Published(NamedTuple):
    """An event that is in its stream."""

    subject: str
    id: str
    sequence: int
    """Its number in the stream."""
    duplicate: bool
    """The stream has had one of this subject and id, some minutes ago at most: it is that one."""


class Events:
    """Those of one namespace."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def publish(self, subject: str, data: Any = None, *, id: str = "") -> Published:
        """Publish an event; once this returns it is stored, and is looked at once.

        *data* is any JSON; the caller's trace goes along. With the same *id* and subject again
        within ten minutes nothing happens. Sent again for 15 s. Raises `InvalidRequest` for what is
        no subject or id, `LimitExceeded` for data that the broker would not carry, `Unavailable`
        when the stream is full, `Unreachable`.
        """
        if not subjects.valid_subject(subject):
            raise InvalidRequest(
                f"not a subject of an event: {subject!r:.200} (letters, digits, _, - and $ in "
                f"tokens between dots, at most {subjects.SUBJECT_LENGTH_MAX})"
            )
        if len(id) > ID_LENGTH_MAX or not id.isprintable():
            raise InvalidRequest(
                f"not an id of an event: {id!r:.200} (one line, at most {ID_LENGTH_MAX} characters)"
            )
        id = id or secrets.token_hex(8)
        place = subjects.incoming(self._calls.namespace, subject)
        headers = {"ce-id": id, "Nats-Msg-Id": f"{place}/{id}"}
        if trace := current_traceparent():
            headers["traceparent"] = trace
        raw = b"" if data is None else _json(data)
        until = time.monotonic() + MUTATION_S
        while True:
            try:
                stored = await self._calls.transport.store(
                    place, raw, headers=headers, timeout_s=ATTEMPT_S
                )
                return Published(subject, id, *stored)
            except Unreachable:
                # Whether it is stored is not known: under its id it is stored once.
                if time.monotonic() + PAUSE_S > until:
                    raise
            await asyncio.sleep(PAUSE_S)

    async def triggers(self) -> Sequence[TriggerView]:
        """Return the definitions that events begin, by name."""
        return await self._calls.of_namespace(list[TriggerView], ListTriggers())


def _json(data: Any) -> bytes:
    try:
        return msgspec.json.encode(data)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"the data of an event must be JSON: {error}") from error
    except RecursionError as error:
        raise LimitExceeded("the data of an event is nested too deeply") from error
