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


def root_trace(seed: str) -> str:
    """Return the context, to be sampled, of a trace that begins with what is done below it.

    Nobody has its span: see `is_root`. *seed*: no other trace is made of it.
    """
    trace = hashlib.blake2b(seed.encode(), digest_size=16).hexdigest()
    return f"00-{trace}-{_root_span(trace)}-01"


def is_root(traceparent: str) -> bool:
    """Tell whether a valid *traceparent* is of a trace that `root_trace` began: nobody's span."""
    _, trace, span, _ = traceparent.split("-")
    return span == _root_span(trace)


def is_among(traceparent: str, share: float) -> bool:
    """Tell whether a trace is of that *share*, 0 to 1, of all, as every sampler by ratio does.

    By the rule of OpenTelemetry's `TraceIdRatioBased`: the lower 8 bytes of the id are below it.
    """
    return int(traceparent.split("-")[1][16:], 16) < round(share * 2**64)


def _root_span(trace: str) -> str:
    return hashlib.blake2b(f"root/{trace}".encode(), digest_size=8).hexdigest()


def step_span(path: str, round: int = 0) -> str:
    """Return what a step's span is of, below its run's: see `child_of`.

    *round*: how often what is around it was begun anew after a compensation.
    """
    return f"step/{path}~{round}" if round else f"step/{path}"


def entry_span(generation: int, key: str) -> str:
    """Return what the span of an entry of a function's journal is of, below its run's."""
    return f"entry/{generation}:{key}"
