"""Traces: from a request to the window that stored its event, over real processes, as a collector receives them."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import urllib3
from django.db import transaction
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import SpanContext

from deploy.local.process import PROJECT
from tests.integration.event_log import EventLog
from tests.integration.invariants import assert_delivered_within
from tests.integration.windows import dispatched, seal
from tests.integration.workers import QUICK, Workers
from tests.services import Services
from tests.waiting import eventually
from towpath import Event, publish
from towpath.flow.origins import MOST_BATCHES, MOST_REQUESTS, origins
from towpath.ledger.models import Window
from towpath.outbox.context import bind
from towpath.telemetry import spans
from towpath.telemetry.spans import links_to, remember_message

WAIT_SECONDS = 60


class Seen(Event):
    number: int


class Collector:
    """What an OpenTelemetry collector has received over OTLP, by HTTP."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805 - the base class's name; `self` is the collector
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                if handler.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                self._take(ExportTraceServiceRequest.FromString(body))
                handler.send_response(200)
                handler.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def named(self, name: str) -> list[Any]:
        return [span for _, span in self.spans if span.name == name]

    def services(self) -> set[str]:
        return {service for service, _ in self.spans}

    def _take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            attributes = {item.key: item.value.string_value for item in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(attributes["service.name"], span) for span in scope.spans]


@contextmanager
def running(collector: Collector) -> Iterator[Collector]:
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        collector.server.server_close()
        thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running(Collector()) as collector:
        yield collector


def traced(collector: Collector) -> dict[str, str]:
    return {**QUICK, "TRACING": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}


def sign_up(services: Services, number: int, **headers: str) -> None:
    person = {"email": f"traced{number}@example.com", "first_name": "T", "last_name": "R"}
    url = f"http://127.0.0.1:{services.web_port}/api/users"
    assert urllib3.PoolManager().request("POST", url, json=person, headers=headers).status == 201


def test_the_span_of_a_window_links_to_the_requests_and_messages_that_it_carries(
    workers: Workers, event_log: EventLog, services: Services, collector: Collector
) -> None:
    # Given an aggregator that waits long enough to put many requests into one window
    workers.web(**traced(collector))
    workers.wait_until_ready()
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    sign_up(services, 0, traceparent=f"00-{trace_id}-b7ad6b7169203331-01")
    for number in range(1, 6):
        sign_up(services, number)

    # When all is delivered
    workers.dispatcher(**traced(collector))
    workers.aggregator(**traced(collector))
    assert_delivered_within(event_log, committed=6, seconds=WAIT_SECONDS)
    window = Window.objects.get()

    # Then there is a span for each request, the message and the window, of the process where it happened
    (span,) = eventually(lambda: collector.named("deliver window"), seconds=WAIT_SECONDS)
    requests = eventually(lambda: _if_as_many_as(6, collector.named("POST api/users")), seconds=WAIT_SECONDS)
    (message,) = eventually(lambda: collector.named("process towpath.aggregate"), seconds=WAIT_SECONDS)
    (sent,) = eventually(lambda: collector.named("send towpath.aggregate"), seconds=WAIT_SECONDS)
    assert collector.services() == {"towpath-web", "towpath-dispatcher", "towpath-aggregator"}
    attributes = {item.key: item.value for item in span.attributes}
    assert attributes["towpath.window"].string_value == str(window.id)
    assert attributes["towpath.rows"].int_value == 6

    # And the first request continues with its caller's trace
    assert trace_id in {request.trace_id.hex() for request in requests}

    # And the message was sent by the dispatcher, as its context in the options says
    assert (message.trace_id, message.parent_span_id) == (sent.trace_id, sent.span_id)

    # And the window links to the message, and to requests, no more of them than are looked up
    linked = {link.span_id for link in span.links}
    assert message.span_id in linked
    assert len(linked) == len(span.links) == 1 + 4
    assert linked - {message.span_id} <= {request.span_id for request in requests}

    # And its stages are its children
    stages = {name: collector.named(name) for name in ("load", "write", "ack")}
    assert {name: [stage.parent_span_id for stage in found] for name, found in stages.items()} == {
        name: [span.span_id] for name in stages
    }


def _if_as_many_as(count: int, spans: list[Any]) -> list[Any]:
    return spans if len(spans) >= count else []


def test_a_collector_that_is_away_delays_nothing(workers: Workers, event_log: EventLog, services: Services) -> None:
    knobs = {**QUICK, "TRACING": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    workers.web(**knobs)
    workers.dispatcher(**knobs)
    workers.aggregator(**knobs)
    workers.wait_until_ready()

    sign_up(services, 1)

    assert_delivered_within(event_log, committed=1, seconds=WAIT_SECONDS)


def test_nothing_of_opentelemetry_is_imported_while_tracing_is_off() -> None:
    script = (
        "import django, json, sys; django.setup(); import towpath.actors, backend.config.wsgi;"
        "print(json.dumps([name for name in sys.modules if name.startswith('opentelemetry')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True
    )

    assert json.loads(done.stdout) == []


def test_tracing_without_the_extra_says_what_to_install() -> None:
    script = "import sys; sys.modules['opentelemetry'] = None; import backend.config.settings"
    for is_on in (True, False):
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=PROJECT,
            env={**os.environ, "TRACING": str(is_on)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ("pip install 'towpath[tracing]'" in done.stderr) == is_on
        assert (done.returncode == 0) == (not is_on)


def test_the_links_of_one_window_are_few() -> None:
    # Given a window of more batches and more requests than a span links to
    requests = max(MOST_BATCHES, MOST_REQUESTS) + 8
    for number in range(requests):
        with bind(traceparent=f"00-{number + 1:032x}-{number + 1:016x}-01"), transaction.atomic():
            publish(Seen(number=number))
    ids = dispatched(batch_ids=1)
    window = seal(ids)
    assert window is not None
    assert len(ids) == requests
    for batch in ids:
        remember_message(batch, SpanContext(trace_id=1, span_id=2**32 + batch, is_remote=True))

    links = links_to(origins(window))

    assert len(links) == MOST_BATCHES + MOST_REQUESTS <= 128  # what the SDK keeps of a span's links, by default
    linked = {link.context.span_id for link in links}
    assert len(linked & {2**32 + batch for batch in ids}) == MOST_BATCHES
    assert len(linked & set(range(1, requests + 1))) == MOST_REQUESTS


def test_messages_whose_window_never_comes_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered: OrderedDict[int, SpanContext] = OrderedDict()
    monkeypatch.setattr(spans, "_messages", remembered)
    for batch in range(spans._MOST_MESSAGES + 10):
        remember_message(batch, SpanContext(trace_id=1, span_id=batch + 1, is_remote=True))

    assert [*remembered] == [*range(10, spans._MOST_MESSAGES + 10)]
