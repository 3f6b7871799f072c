"""What machines and people ask the web process about itself: /healthz, /readyz, /metrics.

RabbitMQ and the event store being away does not make the web process unready: it publishes into PostgreSQL, and
keeping requests away from it would turn their outage into one of the application.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog
from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pipeline.doctor import Finding, examine
from pipeline.gauges import LEDGER

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()

#: A full examination connects to everything: however often it is asked for, it is made this often at most.
_FRESH_SECONDS = 5.0


class HealthMiddleware:
    """Answers machines before any other middleware: they call the process by its address, which is none of
    ALLOWED_HOSTS, without TLS, and have no session."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        match request.path:
            case "/healthz":
                return _text("ok")
            case "/readyz" if "full" not in request.GET:
                return _ready()
            case "/metrics":
                return _metrics()
        return self._get_response(request)


_migrated = threading.Event()


def _ready() -> HttpResponse:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT")
        if not _migrated.is_set():  # what is applied stays so for the life of a process
            executor = MigrationExecutor(connection)
            if executor.migration_plan(executor.loader.graph.leaf_nodes()):
                return _text("migrations are not applied: run `python manage.py migrate`", status=503)
            _migrated.set()
    except (DatabaseError, InterfaceError):
        return _text("PostgreSQL does not answer: `python manage.py pipeline doctor` says more", status=503)
    return _text("ready")


def _metrics() -> HttpResponse:
    try:
        return HttpResponse(generate_latest(LEDGER), content_type=CONTENT_TYPE_LATEST)
    except (DatabaseError, InterfaceError) as error:
        log.warning("ledger_not_measured", error=str(error))
        return _text("PostgreSQL does not answer", status=503)


class _Examination:
    """The doctor's findings, some seconds old at most."""

    def __init__(self) -> None:
        self._examining = threading.Lock()
        self._examined_at = float("-inf")
        self._findings: list[Finding] = []

    def findings(self) -> list[Finding]:
        with self._examining:
            if time.monotonic() - self._examined_at > _FRESH_SECONDS:
                self._findings = examine()
                self._examined_at = time.monotonic()
            return self._findings


_examination = _Examination()


def readyz_full(request: HttpRequest) -> HttpResponse:
    """Every check of `pipeline doctor`, for people, as JSON; 503 unless all is well. The details are for staff only:
    they name hosts."""
    findings = _examination.findings()
    with_details = _is_staff(request)
    shown = [
        {"check": finding.check, "is_ok": finding.is_ok, **({"detail": finding.detail} if with_details else {})}
        for finding in findings
    ]
    is_well = all(finding.is_ok for finding in findings)
    return JsonResponse({"is_ok": is_well, "checks": shown}, status=200 if is_well else 503)


def _is_staff(request: HttpRequest) -> bool:
    try:
        return bool(request.user.is_staff)
    except (AttributeError, DatabaseError, InterfaceError):  # the session is in the database
        return False


def _text(text: str, *, status: int = 200) -> HttpResponse:
    return HttpResponse(f"{text}\n", content_type="text/plain; charset=utf-8", status=status)
