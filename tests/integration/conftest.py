"""Tests on the real services: each starts with everything empty."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import dramatiq
import psycopg2
import pytest
from django.conf import settings as django_settings
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.core.management import call_command
from django.db import connection
from django.test import Client
from pytest_django import Settings

from tests.integration.erasing import JANE, JOHN, MAIL, ODD, deliver_and_verify, write_as
from tests.integration.event_log import EventLog
from tests.integration.proving import EACH_STORE, STORES, Tampered
from tests.integration.queues import forget_connection, purge_queues
from tests.integration.readers import signed_in
from tests.integration.rows import write_events
from tests.integration.superusers import superuser
from tests.integration.windows import deliver_all
from tests.integration.workers import ForkedProcess, Workers
from tests.poison import give_limits_back
from tests.tables import empty_tables
from towpath.conf.current import config
from towpath.eventlog.connect import connect
from towpath.eventlog.store import Store
from towpath.explorer import reading
from towpath.explorer.views import event, tail, timeline
from towpath.ledger.models import DeadLetter
from towpath.outbox.models import OutboxEvent
from towpath.proof import sealing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg2.extensions import connection as PostgresSession  # noqa: N812 - a class
    from pytest_django import DjangoDbBlocker

    from tests.services import Services


@pytest.fixture(scope="session", autouse=True)
def quick_passwords() -> None:
    """Passwords are hashed as always, but for the million times, which take a third of a second each."""
    PBKDF2PasswordHasher.iterations = 1


@pytest.fixture(scope="session", autouse=True)
def patient_explorer() -> Iterator[None]:
    """A page waits for the event store for as long as a machine under load needs, and so never comes with less."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("ROWS", "BARS", "SAMPLE", "NEWEST"):
            patched.setattr(reading, f"{name}_SECONDS", 30.0)
        for view in (event, tail, timeline):
            patched.setattr(view, "_SECONDS", 30.0)
        yield


@pytest.fixture(scope="session")
def django_db_setup(services: Services, django_db_blocker: DjangoDbBlocker) -> None:
    """The real database, migrated, and not a `test_` one: worker processes of the tests must see the same rows."""
    assert services.postgres.is_running
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)
        call_command("eventlog", "migrate")


@pytest.fixture(scope="session")
def event_log(request: pytest.FixtureRequest, services: Services) -> Iterator[EventLog]:
    """The OBT, read past the product's own code."""
    request.getfixturevalue("django_db_setup")
    log = EventLog(services.clickhouse)
    yield log
    log.close()
    # Before RabbitMQ ends: what it has closed is closed by nobody any more.
    forget_connection()
    dramatiq.get_broker().close()


@pytest.fixture(autouse=True)
def everything_empty(event_log: EventLog, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Access to the database, all tables and queues empty, and nothing of a test's own threads left over."""
    with django_db_blocker.unblock():
        empty_tables()
        give_limits_back()
        event_log.clear()
        purge_queues()
        yield
        connection.close()


@pytest.fixture
def session() -> Iterator[PostgresSession]:
    """A database session beside the test's own, for a transaction that stays open."""
    session = psycopg2.connect(django_settings.DATABASE_URL)
    yield session
    session.close()


@pytest.fixture
def admin() -> Client:
    """A superuser's browser."""
    return signed_in(superuser())


@pytest.fixture
def store() -> Iterator[Store]:
    """The product's own connection to the event store."""
    store = connect(django_settings.TOWPATH.event_store_url, timeout_seconds=30)
    yield store
    store.close()


@pytest.fixture
def workers(services: Services, request: pytest.FixtureRequest) -> Iterator[Workers]:
    """Real worker processes; what the test leaves running is killed."""
    with Workers(services, log_folder=services.folder / "log" / request.node.name[:80], kind=ForkedProcess) as workers:
        yield workers


@pytest.fixture
def letters(store: Store) -> list[int]:
    """Numbers of three dead letters."""
    write_events(["{}"] * 20)
    write_events(["{}"] * 3, at="infinity")
    deliver_all(store)
    found = sorted(DeadLetter.objects.values_list("id", flat=True))
    assert len(found) == 3
    return found


@pytest.fixture(params=EACH_STORE)
def erased(request: pytest.FixtureRequest, services: Services, settings: Settings) -> Iterator[Tampered]:
    """Two windows with events of Jane and of John, in two months; verified, and sealed."""
    store: Tampered = STORES[request.param](services)
    settings.TOWPATH = replace(config(), event_store_url=store.url)
    write_as(JANE, [json.dumps({"email": MAIL, "n": 1}), ODD], at="2026-03-31 23:59:59.999999+00")
    write_as(JOHN, ['{"email": "john@example.com"}'], at="2026-03-31 23:59:59.999999+00")
    write_as(JANE, ['{"n": 2}'], at="2026-04-01 00:00:00+00")
    deliver_and_verify(store)
    write_as(JANE, [json.dumps({"email": MAIL, "n": 3})], at="2026-04-02 00:00:00+00")
    write_as(JOHN, [json.dumps({"email": MAIL, "n": 4})], at="2026-04-02 00:00:00+00")
    deliver_and_verify(store)
    assert list(sealing.seal_all(key=""))
    OutboxEvent.objects.all().delete()  # the event about the seal
    yield store
    store.close()
