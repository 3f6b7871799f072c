"""Traces by OpenTelemetry (extra `tracing`): from a request to the window that stored its events.

A window carries the events of many requests, so it is no child of any of them: its span *links* to a sample of the
requests, and to the messages that brought its batches. A request's context travels with its events, in the outbox
row; a message's in the message's options.

Spans begin in the threads that do the work. The instrumentation for pika begins them in dramatiq's consumer thread,
from where they get neither to the actors nor to the writers of windows.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING, Any

import dramatiq
from django.db import DatabaseError, InterfaceError, connection
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from towpath.outbox.context import bind
from towpath.outbox.middleware import ActorContext
from towpath.telemetry.heartbeat import role_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.http import HttpRequest, HttpResponse
    from opentelemetry.trace import SpanContext

    from towpath.ledger.windows import SealedWindow

#: Links of one window's span, at most: batches, and requests.
_MOST_BATCHES = 32
_MOST_REQUESTS = 32
#: Of how many rows of a batch the request is looked up.
_ROWS_OF_A_BATCH = 4
#: Messages whose context is kept until their window is delivered, at most: an old one costs a link.
_MOST_MESSAGES = 1000
#: How long a stopping worker may take to send its last spans.
_FLUSH_MILLISECONDS = 2000

_tracer = trace.get_tracer("towpath")
_format = TraceContextTextMapPropagator()
_messages: OrderedDict[int, SpanContext] = OrderedDict()
_keeping = threading.Lock()


def _send_spans(role: str) -> None:
    """To OTEL_EXPORTER_OTLP_ENDPOINT, unless the process has a provider already. After the fork, because the
    provider's thread does not survive one."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        resource = Resource.create({"service.name": f"towpath-{role}"}).merge(OTELResourceDetector().detect())
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)


class RequestSpans:
    """Django middleware: a span for each request, and its context for every event that the request publishes."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response
        _send_spans("web")

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if trace.get_current_span().get_span_context().is_valid:  # somebody else has begun it
            return self._with_context(request)
        parent = _format.extract({"traceparent": request.headers.get("traceparent", "")})
        with _tracer.start_as_current_span(request.method or "GET", context=parent, kind=SpanKind.SERVER) as span:
            response = self._with_context(request)
            route = request.resolver_match.route if request.resolver_match else ""
            span.update_name(f"{request.method} {route}")
            span.set_attributes({"http.route": route, "http.response.status_code": response.status_code})
            return response

    def _with_context(self, request: HttpRequest) -> HttpResponse:
        with bind(**_carrier()):
            return self._get_response(request)


class MessageSpans(ActorContext):
    """dramatiq middleware: a span for each message that is sent, and for the work at it. Shifts have none: a trace of
    a whole minute shows nothing."""

    def before_worker_boot(self, _broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        # Before the first message, which may be there already.
        _send_spans(role_of(worker.consumer_whitelist))

    def after_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        # The process ends without running what `atexit` was given.
        provider = trace.get_tracer_provider()
        if isinstance(provider, TracerProvider):
            provider.force_flush(_FLUSH_MILLISECONDS)

    def before_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[Any], _delay: int | None) -> None:
        if _is_periodic(broker, message):
            return
        # Over at once: many messages go out together, and only the way from here is of interest.
        with _tracer.start_as_current_span(f"send {message.queue_name}", kind=SpanKind.PRODUCER):
            message.options.update(trace=_carrier())

    @contextlib.contextmanager
    def context_of(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> Iterator[None]:
        if _is_periodic(broker, message):
            yield
            return
        parent = _format.extract(message.options.get("trace", {}))
        name = f"process {message.queue_name}"
        with _tracer.start_as_current_span(name, context=parent, kind=SpanKind.CONSUMER) as span:
            if (batch := message.kwargs.get("batch")) is not None:
                _remember(batch, span.get_span_context())
            yield


@contextlib.contextmanager
def of_window(window: SealedWindow) -> Iterator[None]:
    """While inside, the window's span is the current one."""
    with _tracer.start_as_current_span("deliver window", links=_links(window)) as span:
        span.set_attribute("towpath.window", str(window.id))
        span.set_attributes({"towpath.rows": window.row_count, "towpath.attempt": window.attempts})
        yield


def add_stage(stage: str, *, seconds: float) -> None:
    """The current window's span gets a child that ends now."""
    if trace.get_current_span().get_span_context().is_valid:
        _tracer.start_span(stage, start_time=time.time_ns() - int(seconds * 1e9)).end()


def _links(window: SealedWindow) -> list[Link]:
    try:
        return [*_links_to_messages_and_requests(window)]
    except (DatabaseError, InterfaceError):
        # A trace is not worth a delivery; the load, which comes next, says what is wrong.
        connection.close()
        return []


def _links_to_messages_and_requests(window: SealedWindow) -> Iterator[Link]:
    sample: defaultdict[str, list[int]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, outbox, ids[1:%s] FROM pipeline_batch WHERE window_id = %s ORDER BY id LIMIT %s",
            [_ROWS_OF_A_BATCH, window.id, _MOST_BATCHES],
        )
        for batch, outbox, ids in cursor.fetchall():
            sample[outbox] += ids
            with _keeping:
                context = _messages.pop(batch, None)
            if context is not None:
                yield Link(context)
        for outbox, ids in sample.items():
            cursor.execute(
                f"SELECT DISTINCT bound ->> 'traceparent' FROM {connection.ops.quote_name(outbox)}"
                " WHERE id = ANY(%s) AND bound ->> 'traceparent' IS NOT NULL LIMIT %s",
                [ids, _MOST_REQUESTS // len(sample)],
            )
            for (traceparent,) in cursor.fetchall():
                request = trace.get_current_span(_format.extract({"traceparent": traceparent}, context=Context()))
                if request.get_span_context().is_valid:
                    yield Link(request.get_span_context())


def _remember(batch: int, context: SpanContext) -> None:
    with _keeping:
        _messages[batch] = context
        if len(_messages) > _MOST_MESSAGES:
            _messages.popitem(last=False)


def _carrier() -> dict[str, str]:
    """The current span's context, as W3C's `traceparent`; empty without one."""
    carrier: dict[str, str] = {}
    _format.inject(carrier)
    return carrier


def _is_periodic(broker: dramatiq.Broker, message: dramatiq.Message[Any] | dramatiq.MessageProxy) -> bool:
    return "periodic" in broker.get_actor(message.actor_name).options
