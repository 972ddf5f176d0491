"""`noop` and `sleep`."""

from __future__ import annotations

import asyncio
import re
from typing import Final

import msgspec

from headrace.worker.handlers import Context, HandlerError, handler

_PART: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


@handler("noop")
async def noop(_ctx: Context, inputs: msgspec.Raw) -> msgspec.Raw:
    """Return the inputs."""
    return inputs


class SleepInputs(msgspec.Struct, forbid_unknown_fields=True):
    """Exactly one of the two."""

    seconds: float | None = None
    duration: str | float | None = None
    """`90s`, `1m30s`, `250ms`; a bare number counts seconds."""


class SleepOutputs(msgspec.Struct):
    """How long it was."""

    seconds: float


@handler("sleep")
async def sleep(_ctx: Context, inputs: SleepInputs) -> SleepOutputs:
    """Hold a slot for a time; a `sleep` node of a workflow holds none and survives restarts."""
    if (inputs.seconds is None) == (inputs.duration is None):
        raise HandlerError("invalid-input", "sleep: give either seconds or duration", False)
    wanted = inputs.seconds if inputs.duration is None else inputs.duration
    assert wanted is not None
    seconds = parse_duration_s(wanted)
    await asyncio.sleep(seconds)
    return SleepOutputs(seconds)


def parse_duration_s(text: str | float) -> float:
    """Return a duration in seconds; raises `HandlerError` of type `invalid-input`."""
    if isinstance(text, int | float):
        seconds = float(text)
    else:
        try:
            seconds = float(text)
        except ValueError:
            parts = _PART.findall(text)
            if not parts or _PART.sub("", text).strip():
                raise HandlerError("invalid-input", f"{text!r} is no duration", False) from None
            seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not 0 <= seconds < float("inf"):
        raise HandlerError("invalid-input", f"{text!r} is no duration", False)
    return seconds
