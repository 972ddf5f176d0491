"""Spans for OpenTelemetry where it is wanted; their contexts are in `headrace.messages`.

opentelemetry is an extra and is imported only by who makes a `Tracer`; without one nothing here
costs anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from headrace.errors import InvalidConfig
from headrace.messages import trace_id, valid_traceparent

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

SWITCHES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SAMPLER, SAMPLER_ARG = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
SHARES: Final[dict[str, float | None]] = {"always_on": 1.0, "always_off": 0.0, "traceidratio": None}
"""Of each sampler; None: its argument says it."""


def current_traceparent(environ: Mapping[str, str] | None = None) -> str:
    """Return the context of the caller: of its active span, else `TRACEPARENT`; empty: none."""
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.trace import get_current_span

        context = get_current_span().get_span_context()
        if context.is_valid:
            return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    found = (os.environ if environ is None else environ).get("TRACEPARENT", "")
    return found if found and valid_traceparent(found) else ""


def sampled_share(environ: Mapping[str, str]) -> float:
    """Return how many of the traces that begin here `OTEL_TRACES_SAMPLER` wants, 0 to 1.

    What comes in a trace is of it by its own flag, as with the samplers ``parentbased_…``. Raises
    `InvalidConfig` for a sampler that is none of OpenTelemetry's own, and a ratio that is none.
    """
    asked = environ.get(SAMPLER, "").strip().lower()
    kind = asked.removeprefix("parentbased_") or "always_on"
    if kind not in SHARES:
        names = ", ".join([*SHARES, *(f"parentbased_{name}" for name in SHARES)])
        raise InvalidConfig(SAMPLER, f"not a sampler: {asked!r}; there are {names}")
    share = SHARES[kind]
    if share is not None:
        return share
    ratio = environ.get(SAMPLER_ARG, "").strip() or "1"
    try:
        share = float(ratio)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise InvalidConfig(SAMPLER_ARG, f"not a ratio from 0 to 1: {ratio!r}")
    return share


def attempt_fields(run: str, step: str, attempt: int, traceparent: str) -> dict[str, str | int]:
    """Return the fields of lines of the log that are about an attempt; *step* is its path."""
    fields: dict[str, str | int] = {"run": run, "step": step, "attempt": attempt}
    if trace := trace_id(traceparent):
        fields["trace_id"] = trace
    return fields


class Tracer:
    """Hands finished spans to an exporter. `close` sends what waits."""

    def __init__(self, processor: SpanProcessor, role: str, share: float = 1.0) -> None:
        """*share*, 0 to 1: how many of the traces that begin here are wanted."""
        from opentelemetry.sdk.resources import Resource

        self.share = share
        self._processor = processor
        self._resource = Resource.create(
            {"service.name": f"headrace-{role}", "service.namespace": "headrace"}
        )

    @classmethod
    def from_environment(cls, role: str, environ: Mapping[str, str] | None = None) -> Tracer | None:
        """Return a tracer that sends by OTLP/HTTP; None: `OTEL_EXPORTER_OTLP_…` asks for none.

        Raises `InvalidConfig` when the extra is missing, or the sampler is not one that we know.
        """
        environ = os.environ if environ is None else environ
        asked = next((name for name in SWITCHES if environ.get(name)), "")
        if not asked or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            reason = "needs more packages: pip install 'headrace[otel]'"
            raise InvalidConfig(asked, reason) from error
        return cls(BatchSpanProcessor(OTLPSpanExporter()), role, sampled_share(environ))

    def record(
        self,
        name: str,
        context: str,
        parent: str = "",
        *,
        started_ms: int,
        ended_ms: int,
        attributes: Mapping[str, str | int],
        error: str = "",
        kind: Literal["consumer", "internal", "producer"] = "consumer",
        links: Sequence[str] = (),
    ) -> None:
        """Record a span that has ended.

        *context*, *parent* and *links* (what it has to do with, too) are ``traceparent`` texts;
        *parent* is empty for the span that begins its trace.
        """
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import Link, SpanKind, Status, StatusCode

        own = _context(context, remote=False)
        if not own.trace_flags.sampled:
            return
        status = Status(StatusCode.ERROR, error) if error else Status(StatusCode.OK)
        span = ReadableSpan(
            name=name,
            context=own,
            parent=_context(parent, remote=True) if parent else None,
            resource=self._resource,
            attributes=dict(attributes),
            kind=SpanKind[kind.upper()],
            links=[Link(_context(link, remote=True)) for link in links],
            status=status,
            start_time=started_ms * 1_000_000,
            end_time=max(ended_ms, started_ms) * 1_000_000,
        )
        self._processor.on_end(span)

    def close(self) -> None:
        """Send what waits, and stop; blocks for at most some seconds."""
        self._processor.shutdown()


def _context(traceparent: str, *, remote: bool) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    _, trace, span, flags = traceparent.split("-")
    return SpanContext(int(trace, 16), int(span, 16), remote, TraceFlags(int(flags, 16)))
