"""A span for each request (extra `tracing`), whose context travels with the events that the request publishes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from towpath.outbox.context import bind
from towpath.telemetry import spans

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest, HttpResponse


class RequestSpans:
    """Django middleware: a span for each request, and its context for every event that the request publishes."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response
        spans.begin("web")

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if trace.get_current_span().get_span_context().is_valid:  # another middleware has begun it
            return self._with_context(request)
        parent = spans.parent_in({"traceparent": request.headers.get("traceparent", "")})
        name = request.method or "GET"
        with spans.tracer.start_as_current_span(name, context=parent, kind=SpanKind.SERVER) as span:
            response = self._with_context(request)
            route = request.resolver_match.route if request.resolver_match else ""
            span.update_name(f"{request.method} {route}")
            span.set_attributes({"http.route": route, "http.response.status_code": response.status_code})
            return response

    def _with_context(self, request: HttpRequest) -> HttpResponse:
        with bind(**spans.carrier()):
            return self._get_response(request)
