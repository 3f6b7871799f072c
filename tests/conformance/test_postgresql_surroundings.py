"""What role, database, options of the URL and policies do to the event store on PostgreSQL."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

import pytest

from tests.conformance.rows import MOMENT, OWN_COLUMNS, WINDOW, row, write
from towpath.eventlog import schema
from towpath.eventlog.connect import connect
from towpath.eventlog.errors import EventStoreError, StoreUnavailable
from towpath.eventlog.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conformance.subjects import PostgreSQLSubject
    from tests.services import Services

pytestmark = pytest.mark.only("postgresql", reason="roles and sessions are PostgreSQL's")


def _url(services: Services, *, options: str = "", user: str = "") -> str:
    server = urlsplit(services.postgres.url)
    netloc = f"{user}:secret@{server.hostname}:{server.port}" if user else server.netloc
    query = f"options={quote(options)}" if options else ""
    return urlunsplit(server._replace(path="conformance", netloc=netloc, query=query))


def _connect(services: Services, **options: str) -> Store:
    return connect(_url(services, **options), timeout_seconds=20, own_columns=OWN_COLUMNS)


@pytest.mark.parametrize(
    "options",
    [
        "-c DateStyle=SQL,DMY -c IntervalStyle=sql_standard -c TimeZone=Asia/Tokyo",
        "-c standard_conforming_strings=off -c lock_timeout=1 -c statement_timeout=50",
        "-c default_transaction_isolation=serializable",
        "-c synchronous_commit=off -c enable_partition_pruning=off -c idle_in_transaction_session_timeout=1",
    ],
)
def test_what_role_or_url_set_changes_nothing(
    store: Store, subject: PostgreSQLSubject, services: Services, options: str
) -> None:
    assert list(store.problems()) == []
    context = b'{"at": "1.2.2024", "text": "a\\\\b \xf0\x9f\x98\x80"}'

    with closing(_connect(services, options=options)) as other:
        write(other, row(1, context=context))
        write(other, row(1, context=context))

        assert subject.rows() == [row(1, context=context)]
        assert other.read_back(WINDOW) == {row(1).identity}
        assert next(other.stream("paid")).event_date_time == MOMENT
        assert list(other.problems()) == []
        assert [one for one in other.findings() if not one.is_ok] == []


def test_the_encoding_of_the_environment_is_not_that_of_rows(
    store: Store, subject: PostgreSQLSubject, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(store.problems()) == []
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")

    with closing(_connect(services)) as other:
        write(other, row(1, context="é😀".encode()))

    assert subject.rows() == [row(1, context="é😀".encode())]


def test_a_search_path_without_a_schema_is_named(subject: PostgreSQLSubject, services: Services) -> None:
    schema.migrate(subject.store)

    with closing(_connect(services, options="-c search_path=app")) as other:
        for use in (lambda: write(other, row(1)), other.problems, other.foreign_tables):
            with pytest.raises(StoreUnavailable, match="none of the schemas in the search_path 'app'"):
                use()


def test_a_role_that_may_not_write_is_told_why_and_can_read(store: Store, services: Services) -> None:
    write(store, row(1))

    with closing(_connect(services, options="-c default_transaction_read_only=on")) as other:
        with pytest.raises(StoreUnavailable, match="default_transaction_read_only"):
            write(other, row(2))
        assert other.read_back(WINDOW) == {row(1).identity}


@pytest.fixture
def limited_role(subject: PostgreSQLSubject) -> Iterator[str]:
    """A role that policies apply to."""
    subject.execute(
        "DROP ROLE IF EXISTS conformance_limited;"
        "CREATE ROLE conformance_limited LOGIN PASSWORD 'secret';"
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO conformance_limited"
    )
    yield "conformance_limited"
    subject.execute("DROP OWNED BY conformance_limited; DROP ROLE conformance_limited")


def test_a_policy_that_hides_rows_is_an_error_and_a_finding(
    store: Store, subject: PostgreSQLSubject, services: Services, limited_role: str
) -> None:
    write(store, row(1), row(2))
    subject.execute("ALTER TABLE event_log ENABLE ROW LEVEL SECURITY; GRANT SELECT ON event_log TO conformance_limited")
    subject.execute("CREATE POLICY few ON event_log USING (outbox_id < 2)")

    with closing(_connect(services, user=limited_role)) as other:
        for use in (lambda: other.read_back(WINDOW), lambda: other.counts([WINDOW])):
            with pytest.raises(EventStoreError, match="row-level security"):
                use()
        (finding,) = [one for one in other.findings() if not one.is_ok]

    assert "event_log" in finding.detail
    assert "BYPASSRLS" in finding.detail


def test_a_rule_is_a_finding(store: Store, subject: PostgreSQLSubject) -> None:
    write(store, row(1))
    subject.execute("CREATE RULE none AS ON INSERT TO event_log_token DO ALSO NOTIFY written")

    (finding,) = [one for one in store.findings() if not one.is_ok]

    assert "none on event_log_token" in finding.detail
