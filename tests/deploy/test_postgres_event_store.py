"""deploy/postgres/event_store.sql on a real server: what each role of an event store on PostgreSQL may do."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg2
import psycopg2.errors
import pytest

from deploy.local.process import PROJECT
from tests.administering import administer, on_database, run_file
from tests.conformance.rows import MOMENT, OWN_COLUMNS, WINDOW, row, write
from towpath.eventlog.connect import connect
from towpath.eventlog.errors import StoreUnavailable
from towpath.eventlog.masking import MASK_JSON
from towpath.eventlog.query import Query
from towpath.eventlog.search import Position
from towpath.eventlog.store import MaskedRow
from towpath.eventlog.stores.postgresql.store import PostgreSQLStore
from towpath.eventlog.values import EARLIEST, TOO_LATE

if TYPE_CHECKING:
    from tests.services import Services
    from towpath.eventlog.store import Store
    from towpath.eventlog.stored import StoredEvent

_DATABASE = "event_log_of_roles"
_ROLES = ("writer", "reader", "verifier", "explorer", "keeper")
_PASSWORDS = {f"POSTGRES_{role.upper()}_PASSWORD": f"of-{role}-and-no-other" for role in _ROLES}
_PARTITION = f"event_log_{MOMENT:%Y_%m}"


@pytest.fixture(scope="module")
def superuser(services: Services) -> str:
    """The server's administrator, in an empty database."""
    with closing(psycopg2.connect(on_database(services.postgres.superuser_url, "postgres"))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {_DATABASE} WITH (FORCE)")
            cursor.execute(f"CREATE DATABASE {_DATABASE} TEMPLATE template0 ENCODING 'UTF8'")
    return on_database(services.postgres.superuser_url, _DATABASE)


@pytest.fixture(scope="module")
def migrated(superuser: str) -> str:
    """With the roles, the tables as the writer makes them, and a row."""
    _apply_roles(superuser)
    with closing(_store(superuser, "writer")) as store:
        for migration in store.migrations():
            store.apply_migration(migration)
        write(store, row(1))
    _apply_roles(superuser)
    return superuser


def test_the_writer_carries_the_log_and_makes_each_new_month(migrated: str) -> None:
    with closing(_store(migrated, "writer")) as store:
        write(store, row(2, moment=MOMENT + timedelta(days=70)))

        assert store.read_back(WINDOW) >= {row(1).identity}
        assert store.problems() == []
        assert [one for one in store.findings() if not one.is_ok] == []


def test_the_verifier_reads_every_column_of_every_month_and_nothing_else(migrated: str) -> None:
    with closing(_store(migrated, "verifier")) as store:
        assert store.reading_problems() == []
        assert [event.event_context for event in store.stream(row(1).event_type)][:1] == ["{}"]
        assert row(1).identity in store.read_back(WINDOW)
        assert store.window_digests([WINDOW], columns=["outbox", "outbox_id", "event_context"])
        assert store.row_digests(WINDOW, columns=["event_context"])
        assert {window for month in store.months() for window in store.windows_of(month)} == {WINDOW}
    for statement in (
        "INSERT INTO event_log SELECT * FROM event_log",
        "UPDATE event_log SET event_context = ''",
        "DELETE FROM event_log",
        "TRUNCATE event_log",
        "DROP TABLE event_log",
        f"DROP TABLE {_PARTITION}",
        "ALTER TABLE event_log ADD COLUMN x text",
        "CREATE TABLE mine (x int)",
        "SELECT * FROM event_log_token",
        "SELECT * FROM event_log_migration",
        "SET ROLE towpath_writer",
    ):
        _refused(migrated, "verifier", statement)


def test_the_explorer_searches_within_its_limits_and_does_nothing_else(migrated: str) -> None:
    with closing(_store(migrated, "explorer")) as store:
        assert isinstance(store, PostgreSQLStore)
        assert store.reading_problems() == []
        always: dict[str, Any] = {"since": EARLIEST, "until": TOO_LATE}
        assert row(1).identity in {
            (one.position.outbox, one.position.outbox_id)
            for one in store.search(Query(), **always, rows=10, seconds=60)
        }
        assert store.histogram(Query(), **always, step=timedelta(days=1), seconds=60)
        assert store.one(Position(MOMENT, *row(1).identity), seconds=60)
        # What a search takes less of, and never more.
        (limit,) = store._client.query("SELECT reset_val FROM pg_settings WHERE name = 'statement_timeout'")
        assert limit == ("10000",)
        with pytest.raises(StoreUnavailable):
            write(store, row(4))
    for statement in (
        "INSERT INTO event_log SELECT * FROM event_log",
        "UPDATE event_log SET event_context = ''",
        "DELETE FROM event_log",
        "DROP TABLE event_log",
        "CREATE TABLE mine (x int)",
        "CREATE TEMPORARY TABLE mine (x int)",
        "SELECT * FROM event_log_token",
        "SELECT * FROM event_log_migration",
        "SET temp_file_limit = -1",
        "SET ROLE towpath_writer",
    ):
        # Read only is what its sessions begin with, and not what keeps it from writing.
        _refused(migrated, "explorer", f"SET TRANSACTION READ WRITE; {statement}")


def test_a_role_without_the_right_is_told_the_grant_that_is_missing(migrated: str) -> None:
    administer(
        migrated,
        "REVOKE SELECT ON event_log FROM towpath_reader",
        "GRANT SELECT (outbox) ON event_log TO towpath_reader",
    )
    try:
        with closing(_store(migrated, "reader")) as store:
            (problem,) = store.reading_problems()
    finally:
        _apply_roles(migrated)

    assert "event_context" in problem
    assert "outbox," not in problem
    assert problem.endswith("run GRANT SELECT ON event_log TO towpath_reader")


def test_the_keeper_rewrites_a_row_and_drops_a_month(migrated: str) -> None:
    month = MOMENT + timedelta(days=400)
    with closing(_store(migrated, "writer")) as store, closing(_store(migrated, "keeper")) as keeping:
        write(store, row(3, moment=month, context=b'{"a": 1}'))

        assert [*keeping.keeping_problems("drop"), *keeping.keeping_problems("rewrite")] == []
        keeping.rewrite([MaskedRow(event, ((6, 7),), ()) for event in _events(keeping, month)], mask=MASK_JSON)
        assert [event.event_context for event in _events(store, month)] == ['{"a": "***"}']

        keeping.drop_month(month.date(), windows=1)
        assert _events(store, month) == []


def test_who_may_not_keep_the_log_is_told_before_anything_is_done_and_when_it_is(migrated: str) -> None:
    with closing(_store(migrated, "reader")) as store:
        problems = [*store.keeping_problems("drop"), *store.keeping_problems("rewrite")]
        take = "use the URL of towpath_keeper, or run GRANT"
        assert problems == [
            f"role towpath_reader does not own event_log: {take} towpath_writer TO towpath_reader",
            f"role towpath_reader lacks UPDATE on event_log: {take} UPDATE ON event_log TO towpath_reader",
        ]
        with pytest.raises(StoreUnavailable, match="User towpath_reader of EVENT_STORE_URL lacks a privilege"):
            store.drop_month(MOMENT.date(), windows=1)


def test_tables_that_another_role_has_made_become_the_writer_s(migrated: str) -> None:
    administer(migrated, f"ALTER TABLE event_log OWNER TO postgres; ALTER TABLE {_PARTITION} OWNER TO postgres")

    _apply_roles(migrated)

    with closing(_store(migrated, "writer")) as store:
        write(store, row(4, moment=MOMENT + timedelta(days=800)))
        assert store.problems() == []


def _apply_roles(superuser: str) -> None:
    run_file(superuser, PROJECT / "deploy" / "postgres" / "event_store.sql", variables=_PASSWORDS)


def _url(superuser: str, role: str) -> str:
    parts = urlsplit(superuser)
    password = _PASSWORDS[f"POSTGRES_{role.upper()}_PASSWORD"]
    return parts._replace(netloc=f"towpath_{role}:{password}@{parts.hostname}:{parts.port}").geturl()


def _store(superuser: str, role: str) -> Store:
    return connect(_url(superuser, role), timeout_seconds=20, own_columns=OWN_COLUMNS)


def _events(store: Store, since: datetime) -> list[StoredEvent]:
    return list(store.stream(row(1).event_type, since=since, until=since + timedelta(days=1)))


def _connection(superuser: str, role: str) -> Any:
    return psycopg2.connect(_url(superuser, role))


def _refused(superuser: str, role: str, statement: str) -> None:
    with (
        closing(_connection(superuser, role)) as connection,
        connection.cursor() as cursor,
        pytest.raises(psycopg2.errors.InsufficientPrivilege),
    ):
        cursor.execute(statement)
