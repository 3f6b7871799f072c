"""Spans by OpenTelemetry (extra `tracing`), from a request to the window that stored its events.

A window carries the events of many requests, so it is not a child of any of them: its span *links* to a sample of the
requests, and to the messages that brought its batches. A request's context travels with its events, in the outbox
row (`towpath.outbox.spans`); a message's in the message's options (`towpath.rabbitmq.spans`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from towpath.telemetry import tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from uuid import UUID

    from opentelemetry.trace import SpanContext

    from towpath.telemetry.tracing import Origins

#: The most messages whose context is kept until their window is delivered. A dropped one only loses a link.
_MOST_MESSAGES = 1000
#: How long a stopping worker may take to send its last spans.
_FLUSH_MILLISECONDS = 2000

tracer = trace.get_tracer("towpath")

_format = TraceContextTextMapPropagator()
_messages: OrderedDict[int, SpanContext] = OrderedDict()
_keeping = threading.Lock()


def begin(role: str) -> None:
    """Send this process's spans to OTEL_EXPORTER_OTLP_ENDPOINT, unless it has a provider already.

    To be called after the fork: the provider's thread does not survive one.
    """
    tracing.begin(_Windows())
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        resource = Resource.create({"service.name": f"towpath-{role}"}).merge(OTELResourceDetector().detect())
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)


def flush() -> None:
    """Send what is left: a worker ends without running `atexit` functions."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush(_FLUSH_MILLISECONDS)


def carrier() -> dict[str, str]:
    """Return the current span's context as a W3C `traceparent`; empty without a span."""
    values: dict[str, str] = {}
    _format.inject(values)
    return values


def parent_in(values: Mapping[str, str]) -> Context:
    """Return the context of a `traceparent`."""
    return _format.extract(values)


def remember_message(batch: int, context: SpanContext) -> None:
    """Remember the context of the message that brought this batch, so that its window's span can link to it."""
    with _keeping:
        _messages[batch] = context
        if len(_messages) > _MOST_MESSAGES:
            _messages.popitem(last=False)


class _Windows:
    """A `Tracer`."""

    @contextlib.contextmanager
    def of_window(self, window: UUID, *, rows: int, attempt: int, origins: Callable[[], Origins]) -> Iterator[None]:
        with tracer.start_as_current_span("deliver window", links=links_to(origins())) as span:
            span.set_attribute("towpath.window", str(window))
            span.set_attributes({"towpath.rows": rows, "towpath.attempt": attempt})
            yield

    def add_stage(self, stage: str, *, seconds: float) -> None:
        if trace.get_current_span().get_span_context().is_valid:
            tracer.start_span(stage, start_time=time.time_ns() - int(seconds * 1e9)).end()


def links_to(origins: Origins) -> list[Link]:
    """Return links to the remembered messages of the batches, and to the requests."""
    with _keeping:
        messages = [_messages.pop(batch, None) for batch in origins.batches]
    spans = (
        trace.get_current_span(_format.extract({"traceparent": traceparent}, context=Context()))
        for traceparent in origins.traceparents
    )
    requests = [span.get_span_context() for span in spans]
    return [Link(context) for context in (*messages, *requests) if context is not None and context.is_valid]
