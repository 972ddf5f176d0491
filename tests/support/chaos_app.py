"""Handlers that note what runs, served by the workers of the chaos tests.

Each execution appends one line to a journal: ``<key> <attempt> <token> <pid>``. One `write` on a
file opened for appending is one line, whoever else writes.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace

import msgspec

from headrace.worker.handlers import Context, handler

GATE_POLL_S = 0.02


class NoteInputs(msgspec.Struct, forbid_unknown_fields=True):
    """Where to note the execution, and how long it takes."""

    journal: str
    seconds: float = 0.0
    gate: str = ""
    """A file; the step ends once it is there."""


@handler("chaos/note")
async def note(ctx: Context, inputs: NoteInputs) -> dict[str, object]:
    """Note that this attempt runs, take some time, and tell who ran."""
    line = f"{ctx.idempotency_key} {ctx.attempt} {ctx.token} {os.getpid()}\n"
    descriptor = os.open(inputs.journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
    if inputs.seconds:
        await asyncio.sleep(inputs.seconds)
    while inputs.gate and not Path(inputs.gate).exists():
        await asyncio.sleep(GATE_POLL_S)
    return {"attempt": ctx.attempt, "pid": os.getpid()}


app = SimpleNamespace(handlers={"chaos/note": note})
