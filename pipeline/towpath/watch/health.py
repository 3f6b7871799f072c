"""What machines and people ask the web process about itself: /healthz, /readyz, /metrics.

The web process stays ready while RabbitMQ and the event store are away: it publishes into PostgreSQL, and keeping
requests away from it would turn their outage into one of the application.

Whatever hangs, each request is answered within two seconds, and no number of them blocks the threads that serve people:
anything that may hang is done in a separate thread, one at a time.

This middleware is in `watch/` and not in `conf/`, because it serves what the doctor and the gauges read in the ledger.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog
from django.contrib.auth import get_user
from django.contrib.sessions.middleware import SessionMiddleware
from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from towpath import driver
from towpath.conf.current import config
from towpath.errors import NotReadable
from towpath.ledger import database_errors
from towpath.watch.doctor import examine
from towpath.watch.gauges import LEDGER
from towpath.watch.within import NoAnswerYet, Within

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()

#: Every answer comes within two seconds, including its transport.
_SECONDS = 1.8
#: The ledger is not measured more often than this, however many ask.
_MEASURED_EVERY_SECONDS = 2.0
#: The same for a full examination, which connects to everything.
_EXAMINED_EVERY_SECONDS = 5.0


class HealthMiddleware:
    """Answers machines before any other middleware: they call the process by its address, which is not in
    ALLOWED_HOSTS, without TLS, and have no session."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        match request.path:
            case "/healthz":
                return _text("ok")
            case "/readyz" if "full" not in request.GET:
                return _ready()
            case "/readyz":
                return _full_report(request)
            case "/metrics":
                return _metrics()
        return self._get_response(request)


_migrated = threading.Event()


def _ready() -> HttpResponse:
    try:
        are_applied = _readiness.answer()
    except NoAnswerYet:
        return _text("PostgreSQL does not answer in time: run `python manage.py pipeline doctor`", status=503)
    except (DatabaseError, InterfaceError) as error:
        if database_errors.is_outage(error):
            return _text("PostgreSQL does not answer: run `python manage.py pipeline doctor`", status=503)
        return _text(_refusal(error), status=503)
    if not are_applied:
        return _text("migrations are not applied: run `python manage.py migrate`", status=503)
    return _text("ready")


def _look_at_migrations() -> bool:
    """True if all are applied."""
    with driver.cursor() as cursor:
        cursor.execute("SELECT")
    if not _migrated.is_set():  # what is applied stays so for the life of a process
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            return False
        _migrated.set()
    return True


def _metrics() -> HttpResponse:
    try:
        return HttpResponse(_measurement.answer(), content_type=CONTENT_TYPE_LATEST)
    except NoAnswerYet:
        log.warning("ledger_not_measured", error=f"PostgreSQL took more than {_SECONDS:g} s")
        return _text("PostgreSQL does not answer in time", status=503)
    except NotReadable as error:
        log.warning("ledger_not_measured", error=str(error))
        return _text("The ledger cannot be read in time: run `python manage.py pipeline doctor`", status=503)
    except (DatabaseError, InterfaceError) as error:
        log.warning("ledger_not_measured", error=database_errors.describe(error))
        is_away = database_errors.is_outage(error)
        return _text("PostgreSQL does not answer" if is_away else _refusal(error), status=503)


def _measure() -> bytes:
    return generate_latest(LEDGER)


def _refusal(error: Exception) -> str:
    """Return an answer that anyone may see: without what an error says about hosts and rows."""
    return f"PostgreSQL answers but refuses: {type(error).__name__} {driver.sqlstate(error)}".strip()


_readiness = Within(_look_at_migrations, seconds=_SECONDS)
_measurement = Within(_measure, seconds=_SECONDS, fresh_seconds=_MEASURED_EVERY_SECONDS)
_examination = Within(lambda: examine(config()), seconds=_SECONDS, fresh_seconds=_EXAMINED_EVERY_SECONDS)
#: The account that asks for the full report is looked up in PostgreSQL, which may hang. Only this many may wait for it.
_being_looked_up = threading.BoundedSemaphore(2)


def _full_report(request: HttpRequest) -> HttpResponse:
    """Return every check of `pipeline doctor` as JSON, with 503 unless all is well. Only staff can start one."""
    began = time.monotonic()
    try:
        if not _is_staff(request):
            return _for_staff()
        findings = _examination.answer(at_most=_SECONDS - (time.monotonic() - began))
    except NoAnswerYet:
        waiting = [{"check": "examination", "is_ok": False, "detail": "not finished yet: ask again in ten seconds"}]
        return JsonResponse({"is_ok": False, "checks": waiting}, status=503)
    shown = [{"check": finding.check, "is_ok": finding.is_ok, "detail": finding.detail} for finding in findings]
    is_ok = all(finding.is_ok for finding in findings)
    return JsonResponse({"is_ok": is_ok, "checks": shown}, status=200 if is_ok else 503)


def _is_staff(request: HttpRequest) -> bool:
    """True if a member of staff asks. Raises NoAnswerYet if PostgreSQL, which has the sessions, hangs.

    It is done here and not in Django's middleware, because other middleware before that could wait for PostgreSQL.
    """
    SessionMiddleware(lambda _: HttpResponse()).process_request(request)
    if request.session.session_key is None:
        return False

    def look() -> bool:
        try:
            user = get_user(request)
        except (DatabaseError, InterfaceError):
            return False
        # An account model of a project may not know staff.
        return bool(user.is_active and getattr(user, "is_staff", False))

    if not _being_looked_up.acquire(blocking=False):
        raise NoAnswerYet

    def look_and_release() -> bool:
        try:
            return look()
        finally:
            _being_looked_up.release()

    return Within(look_and_release, seconds=_SECONDS / 2).answer()


def _for_staff() -> HttpResponse:
    answer: dict[str, object] = {
        "is_ok": None,
        "checks": [],
        "detail": "for staff only: sign in. Machines use /readyz.",
    }
    return JsonResponse(answer, status=403)


def _text(text: str, *, status: int = 200) -> HttpResponse:
    return HttpResponse(f"{text}\n", content_type="text/plain; charset=utf-8", status=status)
