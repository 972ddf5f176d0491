"""Spans for OpenTelemetry where it is wanted; their contexts are in `headrace.messages`.

opentelemetry is an extra and is imported only by who makes a `Tracer`; without one nothing here
costs anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from headrace.errors import InvalidConfig
from headrace.messages import trace_id, valid_traceparent

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

SWITCHES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def current_traceparent(environ: Mapping[str, str] | None = None) -> str:
    """Return the context of the caller: of its active span, else `TRACEPARENT`; empty: none."""
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.trace import get_current_span

        context = get_current_span().get_span_context()
        if context.is_valid:
            return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    found = (os.environ if environ is None else environ).get("TRACEPARENT", "")
    return found if found and valid_traceparent(found) else ""


def attempt_fields(run: str, step: str, attempt: int, traceparent: str) -> dict[str, str | int]:
    """Return the fields of lines of the log that are about an attempt; *step* is its path."""
    fields: dict[str, str | int] = {"run": run, "step": step, "attempt": attempt}
    if trace := trace_id(traceparent):
        fields["trace_id"] = trace
    return fields


class Tracer:
    """Hands finished spans to an exporter. `close` sends what waits."""

    def __init__(self, processor: SpanProcessor, role: str) -> None:
        from opentelemetry.sdk.resources import Resource

        self._processor = processor
        self._resource = Resource.create(
            {"service.name": f"headrace-{role}", "service.namespace": "headrace"}
        )

    @classmethod
    def from_environment(cls, role: str, environ: Mapping[str, str] | None = None) -> Tracer | None:
        """Return a tracer that sends by OTLP/HTTP; None: `OTEL_EXPORTER_OTLP_…` asks for none.

        Raises `InvalidConfig` when the extra is missing.
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
        return cls(BatchSpanProcessor(OTLPSpanExporter()), role)

    def record(
        self,
        name: str,
        context: str,
        parent: str,
        *,
        started_ms: int,
        ended_ms: int,
        attributes: Mapping[str, str | int],
        error: str = "",
        kind: Literal["consumer", "internal", "producer"] = "consumer",
        links: Sequence[str] = (),
    ) -> None:
        """Record a span that has ended.

        *context*, *parent* and *links* (what it has to do with, too) are ``traceparent`` texts.
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
            parent=_context(parent, remote=True),
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
