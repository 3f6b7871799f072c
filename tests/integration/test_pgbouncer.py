"""Behind PgBouncer in transaction mode, sessions at the server are everybody's: nothing is left or expected there."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import psycopg2
import pytest
from django.core.management import call_command
from django.db import connection

from tests.administering import administer
from tests.conformance.rows import OWN_COLUMNS, WINDOW, row, write
from tests.integration.invariants import assert_delivered_within
from tests.integration.manage import manage
from tests.integration.pgbouncer import PgBouncer
from tests.integration.rows import create_users, undelivered
from tests.integration.threads import all_at_once
from tests.integration.workers import QUICK
from tests.waiting import eventually
from towpath.conf.current import config
from towpath.eventlog.connect import connect
from towpath.eventlog.errors import LimitReached
from towpath.eventlog.query import Query, parse
from towpath.eventlog.schema import migrate, plan
from towpath.eventlog.values import EARLIEST, TOO_LATE
from towpath.ledger.models import Shift
from towpath.rabbitmq.queues import queue_states
from towpath.watch.doctor import examine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.event_log import EventLog
    from tests.integration.workers import Workers
    from tests.services import Services
    from towpath.eventlog.store import MigratableStore

pytestmark = [pytest.mark.own_services, pytest.mark.timeout(300)]

POOL_SIZE = 3
WAIT_SECONDS = 90

#: PgBouncer gives each client its own of these, in whatever session it works.
_OF_THE_CLIENT = {"application_name", "client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings"}

#: A long look at a long text.
_EXPENSIVE = parse(" ".join(f'-"{letter}{"x" * 20}"' for letter in "bcdefghijklmn"))


@pytest.fixture
def pgbouncer(services: Services) -> Iterator[PgBouncer]:
    with contextlib.closing(PgBouncer(services, pool_size=POOL_SIZE)) as pgbouncer:
        pgbouncer.start()
        pgbouncer.wait_until_ready()
        yield pgbouncer


def sign_up(port: int, email: str) -> list[int]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/users",
        data=json.dumps({"email": email, "first_name": "A", "last_name": "B"}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return [response.status]


@contextlib.contextmanager
def through(pgbouncer: PgBouncer) -> Iterator[None]:
    """This process's own connections go through the pool."""
    connection.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(connection.settings_dict, "PORT", pgbouncer.port)
        yield
        connection.close()


def left_in_sessions(pgbouncer: PgBouncer, *, database: str = "towpath") -> set[str]:
    """What the clients before have left in the sessions of the pool, each of which is looked into."""
    found: set[str] = set()
    with contextlib.ExitStack() as stack:
        for _ in range(POOL_SIZE):
            client = stack.enter_context(contextlib.closing(psycopg2.connect(pgbouncer.url_of(database))))
            cursor = stack.enter_context(client.cursor())  # its transaction keeps the session
            cursor.execute(
                "SELECT name FROM pg_settings WHERE source = 'session' AND setting <> reset_val AND name <> ALL(%s)"
                " UNION ALL SELECT 'prepared statement ' || name FROM pg_prepared_statements"
                " UNION ALL SELECT 'temporary table ' || relname FROM pg_class WHERE relpersistence = 't'"
                " UNION ALL SELECT 'advisory lock' FROM pg_locks WHERE locktype = 'advisory'"
                " UNION ALL SELECT 'listens to ' || channel FROM pg_listening_channels() AS channel"
                " UNION ALL SELECT 'cursor ' || name FROM pg_cursors WHERE is_holdable",
                [sorted(_OF_THE_CLIENT)],
            )
            found |= {name for (name,) in cursor.fetchall()}
    return found


def test_every_process_works_with_fewer_sessions_than_clients(
    pgbouncer: PgBouncer, workers: Workers, event_log: EventLog, services: Services
) -> None:
    # Given all processes of the application behind a pool that is smaller than they are many
    knobs = {**QUICK, "DATABASE_URL": pgbouncer.url}
    workers.web(**knobs)
    workers.idle_dispatcher(**knobs)
    doomed = workers.aggregator(1, **knobs, FAILPOINTS="written=kill@1")
    workers.wait_until_ready()
    workers.scheduler(**knobs)
    eventually(lambda: Shift.objects.count() == 2, seconds=WAIT_SECONDS)

    # When users sign up, thousands come together, and an aggregator dies between a window's write and its ack
    create_users(5000)
    eventually(lambda: not doomed.is_running, seconds=WAIT_SECONDS)
    workers.aggregator(2, **knobs)
    answers = all_at_once([partial(sign_up, services.web_port, f"a{number}@b.co") for number in range(20)])
    create_users(1000, prefix="later")
    assert pgbouncer.clients() > POOL_SIZE
    workers.aggregator(3, **knobs)

    # Then each event is stored once
    assert answers == [[201]] * 20
    assert_delivered_within(event_log, committed=6020, seconds=WAIT_SECONDS)

    # And every command answers through the pool, and has no problem to name, once the aggregators have started
    eventually(lambda: queue_states(config())["towpath.aggregate"].consumers, seconds=WAIT_SECONDS)
    with through(pgbouncer):
        for command in (
            "pipeline status",
            "pipeline doctor",
            "pipeline recover",
            "pipeline verify",
            "pipeline deadletters list",
            "pipeline outboxes list",
            "migrate --check",
            "eventlog migrate",
            "eventlog status",
        ):
            call_command(*command.split())

    # And nobody has left anything behind
    assert left_in_sessions(pgbouncer) == set()


def test_a_database_is_migrated_through_the_pool(pgbouncer: PgBouncer) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE pooled")
    try:
        url = pgbouncer.url_of("pooled")
        migrated = manage("migrate", "--noinput", DATABASE_URL=url)
        assert migrated.returncode == 0, migrated.stderr
        assert manage("migrate", "--check", DATABASE_URL=url).returncode == 0
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP DATABASE pooled WITH (FORCE)")


def test_the_event_store_on_postgresql_works_through_the_pool(pgbouncer: PgBouncer) -> None:
    # Given a database of events that is migrated through the pool
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE pooled_events TEMPLATE template0 ENCODING 'UTF8'")
    store = connect(pgbouncer.url_of("pooled_events"), timeout_seconds=30, own_columns=OWN_COLUMNS)
    try:
        migrate(store)
        assert not plan(store)

        # When a window is written twice
        for _ in range(2):
            write(store, row(1), row(2, context=b"a" * 10_000_000))

        # Then it is stored once, the store has nothing to say, and nothing is left behind
        assert store.read_back(WINDOW) == {("outbox_event", 1), ("outbox_event", 2)}
        assert store.counts([WINDOW]) == {WINDOW: {"outbox_event": 2}}
        found = store.search(Query(), since=EARLIEST, until=TOO_LATE, rows=10, seconds=20)
        assert [one.position.outbox_id for one in found] == [2, 1]
        with pytest.raises(LimitReached):
            store.search(_EXPENSIVE, since=EARLIEST, until=TOO_LATE, rows=10, seconds=0.01)
        assert [finding for finding in store.findings() if not finding.is_ok] == []
        assert left_in_sessions(pgbouncer, database="pooled_events") == set()
    finally:
        store.close()
        with connection.cursor() as cursor:
            cursor.execute("DROP DATABASE pooled_events WITH (FORCE)")


def test_a_migration_of_the_event_store_takes_its_lock_away_whoever_has_its_session_meanwhile(
    pgbouncer: PgBouncer,
) -> None:
    with contextlib.ExitStack() as others:

        def take_sessions() -> list[str]:
            for _ in range(POOL_SIZE - 1):
                client = others.enter_context(contextlib.closing(psycopg2.connect(pgbouncer.url)))
                client.cursor().execute("SELECT 1")  # its transaction keeps the session
                others.callback(client.rollback)  # a session whose client leaves in a transaction is closed
            return []

        store = SimpleNamespace(foreign_tables=take_sessions, applied_migrations=dict, migrations=list)
        with through(pgbouncer):
            migrate(cast("MigratableStore", store))

    assert left_in_sessions(pgbouncer) == set()


def test_a_worker_leaves_limits_of_the_pools_sessions_alone_and_the_doctor_names_them(
    pgbouncer: PgBouncer, workers: Workers, event_log: EventLog, services: Services
) -> None:
    administer(services.postgres.superuser_url, "ALTER ROLE towpath SET statement_timeout = '20s'")
    try:
        knobs = {**QUICK, "DATABASE_URL": pgbouncer.url}
        workers.dispatcher(**knobs)
        workers.aggregator(**knobs)
        workers.wait_until_ready()
        create_users(100)
        eventually(lambda: not undelivered(), seconds=WAIT_SECONDS)

        # The workers continue, and hold locks of their transactions now and then
        eventually(lambda: not left_in_sessions(pgbouncer), seconds=WAIT_SECONDS)
        with through(pgbouncer):
            (finding,) = [finding for finding in examine(config()) if finding.check == "PostgreSQL role"]
        assert "statement_timeout is 20000 ms, which is too short for a large window" in finding.detail
    finally:
        administer(services.postgres.superuser_url, "ALTER ROLE towpath RESET statement_timeout")
        connection.close()
    assert event_log.count() == 100
