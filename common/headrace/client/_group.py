"""A question that any coordinator can answer: one is asked, and all when that one is slow.

The broker picks one member of a queue group for each message. A process that is frozen, or that
the network holds up, stays a member until the broker gives its connection up, which takes seconds
to minutes; what it is handed is lost. So a question is asked again before its time is over, of
every coordinator this time, and the first answer counts. Answers change nothing, so two do no harm.
"""

from __future__ import annotations

import asyncio

from headrace.client._transport import Transport
from headrace.errors import HeadraceError
from headrace.messages import subjects

PATIENCE_S = 0.25
"""For the one that was asked first. An answer takes milliseconds; a list over much, more."""


async def ask_group(transport: Transport, subject: str, data: bytes, *, timeout_s: float) -> bytes:
    """Return the first answer to *data*, sent to *subject*, that of a queue group.

    Raises as `Transport.request`: `Unreachable` when nobody has answered after *timeout_s*.
    """
    begun = asyncio.get_running_loop().time()
    asked = {_send(transport, subject, data, timeout_s)}
    try:
        await asyncio.wait(asked, timeout=min(PATIENCE_S, timeout_s))
        left_s = timeout_s - (asyncio.get_running_loop().time() - begun)
        if left_s > 0 and not any(task.done() for task in asked):
            asked.add(_send(transport, subjects.everybody(subject), data, left_s))
        return await _first(asked)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


def _send(transport: Transport, subject: str, data: bytes, timeout_s: float) -> asyncio.Task[bytes]:
    async def send() -> bytes:
        return await transport.request(subject, data, timeout_s=timeout_s)

    return asyncio.create_task(send(), name=f"ask-{subject}")


async def _first(asked: set[asyncio.Task[bytes]]) -> bytes:
    """Return the first answer; raise what the last one failed with when all have failed."""
    pending: set[asyncio.Task[bytes]] = asked
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not isinstance(task.exception(), HeadraceError) or not pending:
                return task.result()
