"""Handlers of the load's steps. Each execution is told to a witness: a file outside the cluster.

One line is one JSON object, written by one `write` on a file opened for appending, so that lines of
several processes do not mix. Times are of the machine's monotonic clock, which no process can turn.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from types import SimpleNamespace
from typing import Any

import msgspec

from headrace.worker.handlers import Context, HandlerError, handler


class NoteInputs(msgspec.Struct, forbid_unknown_fields=True):
    """Where to tell, what kind of step it is, how long it takes, and how often it fails first."""

    witness: str
    ms: int = 20
    failures: int = 0
    """So many attempts fail before one succeeds."""
    what: str = ""
    """`once`, a key that is held, …: tells the judge which rule holds."""


def _tell(path: str, line: dict[str, Any]) -> None:
    line["ns"] = time.monotonic_ns()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)


@handler("rounds/note")
async def note(ctx: Context, inputs: NoteInputs) -> dict[str, Any]:
    """Tell the begin, take some time, tell the end, and return what only this execution knows."""
    nonce = secrets.token_hex(6)
    line = {
        "step": ctx.idempotency_key,
        "attempt": ctx.attempt,
        "token": ctx.token,
        "nonce": nonce,
        "what": inputs.what,
        "failing": ctx.attempt <= inputs.failures,
        "pid": os.getpid(),
    }
    _tell(inputs.witness, {**line, "event": "begin"})
    await asyncio.sleep(inputs.ms / 1000)
    _tell(inputs.witness, {**line, "event": "end"})
    if line["failing"]:
        raise HandlerError("planned", f"attempt {ctx.attempt} was to fail", True)
    return {"nonce": nonce}


app = SimpleNamespace(handlers={"rounds/note": note})
