"""Traces of inferences, by OpenTelemetry, for those that are sampled and for no others.

A middleware that makes a span for each request costs most of what a server can do, sampled or not
(OpenTelemetry's own for ASGI, measured: 1,827 of 9,678 requests a second at 100 %, 2,967 at 1 %).
Here `traceparent` (W3C Trace Context, level 1) is parsed by hand, and spans are made when the
answer is there, from the times that are measured anyway. Where they go is said by its own
variables, OTEL_EXPORTER_OTLP_….
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger("tracing")

SERVICE = "model-serving"
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_CLOSE_MILLISECONDS = 2_000


@dataclass(frozen=True, slots=True)
class Parent:
    """Who called, as `traceparent` says it."""

    trace_id: str
    span_id: str
    sampled: bool


def parse_traceparent(value: bytes) -> Parent | None:
    """None where it is none: then a new trace begins, as the specification wants it. Later versions
    may say more behind the fourth part; version 00 may not, and ff is none."""
    found = _PARENT.fullmatch(value)
    if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5]):
        return None
    trace_id, span_id = found[2].decode(), found[3].decode()
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return Parent(trace_id, span_id, sampled=bool(int(found[4], 16) & 1))


@dataclass(slots=True)
class Spans:
    """What becomes the spans of one sampled inference."""

    trace_id: str
    began_ns: int
    """Since the epoch."""
    span: Any


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of an inference, in nanoseconds since the epoch."""

    name: str
    began_ns: int
    ended_ns: int


class Tracing:
    """Decides who is sampled, and makes the spans of those."""

    def __init__(
        self,
        provider: TracerProvider,
        *,
        rate: float,
        chance: Callable[[], float] = random.random,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`rate` is the share of those that come without a decision of their caller's."""
        self._provider = provider
        self._tracer = provider.get_tracer("mlplatform_serving")
        self._rate = rate
        self._chance = chance
        self._clock_ns = clock_ns

    def begin(self, parent: Parent | None, route: str) -> Spans | None:
        """The spans of a request that has come; None if it is not sampled. A caller's decision
        holds, either way."""
        sampled = self._chance() < self._rate if parent is None else parent.sampled
        if not sampled:
            return None
        from opentelemetry.trace import SpanKind

        began_ns = self._clock_ns()
        span = self._tracer.start_span(
            f"POST {route}",
            _context(parent),
            SpanKind.SERVER,
            {"http.request.method": "POST", "http.route": route},
            start_time=began_ns,
        )
        return Spans(f"{span.get_span_context().trace_id:032x}", began_ns, span)

    def end(
        self,
        spans: Spans,
        status: int,
        attributes: Mapping[str, str | int],
        phases: tuple[Phase, ...] = (),
    ) -> None:
        """The request was answered."""
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        inside = set_span_in_context(spans.span)
        for phase in phases:
            child = self._tracer.start_span(phase.name, inside, start_time=phase.began_ns)
            child.end(phase.ended_ns)
        spans.span.set_attributes({"http.response.status_code": status, **attributes})
        if status >= 500:
            spans.span.set_status(Status(StatusCode.ERROR))
        spans.span.end(self._clock_ns())

    def close(self) -> None:
        """Send what has not been sent; for two seconds at most."""
        self._provider.force_flush(_CLOSE_MILLISECONDS)
        self._provider.shutdown()


def _context(parent: Parent | None) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    if parent is None:
        return Context()
    far = SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    return set_span_in_context(NonRecordingSpan(far), Context())


def wanted(rate: float, environ: Mapping[str, str]) -> bool:
    """Whether traces were asked for: by a rate, or by somewhere to send them."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    somewhere = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return rate > 0 or any(environ.get(name) for name in somewhere)


def open_tracing(rate: float, environ: Mapping[str, str]) -> Tracing | None:
    """None where nobody wants traces; and, with a warning, where the extra `otel` is missing."""
    if not wanted(rate, environ):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
    except ImportError:
        log.warning("no traces are made: mlplatform-serving[otel] is not installed")
        return None
    service = environ.get("OTEL_SERVICE_NAME") or SERVICE
    # Who is not sampled does not come so far.
    provider = TracerProvider(
        ALWAYS_ON, Resource.create({SERVICE_NAME: service}), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    log.info("Tracing initialized: service=%s", service, extra={"sample_rate": rate})
    return Tracing(provider, rate=rate)
