"""Trace contexts (W3C Trace Context, level 1), and which span is of what. Pure.

A context is the text of a ``traceparent``. Ids of spans are made from what they are of, so nobody
has to carry one from a beginning to its end, through takeovers and restarts.
"""

from __future__ import annotations

import hashlib
import re

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_NOTHING = re.compile(r"0+")


def valid_traceparent(text: str) -> bool:
    """Tell whether *text* is a trace context that may be carried on."""
    found = _TRACEPARENT.fullmatch(text)
    return found is not None and not any(_NOTHING.fullmatch(part) for part in found.groups()[:2])


def trace_id(traceparent: str) -> str:
    """Return the trace's id, 32 hexadecimal digits; empty: it is no context."""
    return traceparent.split("-")[1] if valid_traceparent(traceparent) else ""


def is_sampled(traceparent: str) -> bool:
    """Tell whether *traceparent* is a context whose spans are wanted."""
    return valid_traceparent(traceparent) and bool(int(traceparent[-2:], 16) & 1)


def child_of(traceparent: str, of: str) -> str:
    """Return the context of the span of *of* (a key that is unique in the trace) below another."""
    version, trace, _, flags = traceparent.split("-")
    span = hashlib.blake2b(f"{trace}/{of}".encode(), digest_size=8).hexdigest()
    return f"{version}-{trace}-{span}-{flags}"


def step_span(path: str, round: int = 0) -> str:
    """Return what a step's span is of, below its run's: see `child_of`.

    *round*: how often what is around it was begun anew after a compensation.
    """
    return f"step/{path}~{round}" if round else f"step/{path}"


def entry_span(generation: int, key: str) -> str:
    """Return what the span of an entry of a function's journal is of, below its run's."""
    return f"entry/{generation}:{key}"
