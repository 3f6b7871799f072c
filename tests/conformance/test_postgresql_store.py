"""What only the store on PostgreSQL can be made to show: its answers lost, its table locked, its months dropped."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest

from tests.conformance.rows import FIRST, MOMENT, OWN_COLUMNS, SECOND, copy_text, row, write
from tests.conformance.subjects import RemoteSubject, SchemaSubject, Subject
from tests.faults.proxy import Fault, Kind, Proxy
from tests.faults.stores import PostgreSQL
from tests.waiting import eventually
from towpath.eventlog import schema
from towpath.eventlog.columns import FIRST_COLUMN_NUMBER
from towpath.eventlog.connect import connect
from towpath.eventlog.errors import OutcomeUnknown, RowsRefused, StoreUnavailable
from towpath.eventlog.store import Store
from towpath.eventlog.stores.postgresql import store as postgresql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg2.extensions import connection

    from tests.services import Services

pytestmark = pytest.mark.only("postgresql", reason="the tests look behind this store's interface")

_TIMEOUT_SECONDS = 2


@pytest.fixture
def network(subject: RemoteSubject) -> Iterator[Proxy]:
    with Proxy(subject.port) as proxy:
        yield proxy


@pytest.fixture
def far_store(subject: RemoteSubject, store: Store, network: Proxy) -> Iterator[Store]:
    """The store behind a network that can fail. It has been used: it holds a connection."""
    assert list(store.problems()) == []
    far = subject.connect(network.port, timeout_seconds=_TIMEOUT_SECONDS)
    write(far, row(0), token=SECOND)
    subject.execute("TRUNCATE event_log")
    yield far
    far.close()


@pytest.fixture
def by_hand(services: Services, store: Store) -> Iterator[connection]:
    """A transaction of somebody else in the store's database."""
    assert list(store.problems()) == []
    url = urlunsplit(urlsplit(services.postgres.url)._replace(path="conformance"))
    with closing(psycopg2.connect(url)) as connection:
        yield connection
        connection.rollback()


# --- Outcomes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.DROP_ANSWER, Kind.HOLD_ANSWER])
def test_a_lost_answer_to_the_commit_leaves_the_outcome_unknown(
    far_store: Store, subject: Subject, network: Proxy, kind: Kind
) -> None:
    network.fail(Fault(kind=kind, marker=PostgreSQL.insert, times=1))

    with pytest.raises(OutcomeUnknown):
        write(far_store, row(1))

    eventually(lambda: subject.rows() == [row(1)], seconds=10, what="the server has done it")
    network.heal()
    write(far_store, row(1))
    assert subject.rows() == [row(1)]


@pytest.mark.parametrize("after_bytes", [0, 10_000, 100_000])
def test_a_write_that_is_cut_before_its_commit_is_not_done(
    far_store: Store, subject: Subject, network: Proxy, after_bytes: int
) -> None:
    network.fail(Fault(kind=Kind.CUT, marker=PostgreSQL.insert_begins, times=1, after_bytes=after_bytes))

    with pytest.raises(StoreUnavailable):
        write(far_store, row(1, context=b"x" * 500_000))

    assert subject.rows() == []


def test_a_server_that_never_answers_is_given_up(far_store: Store, network: Proxy) -> None:
    network.fail(Fault(kind=Kind.BLACK_HOLE))

    with pytest.raises(StoreUnavailable):
        write(far_store, row(1))
    with pytest.raises(StoreUnavailable):
        far_store.counts([])


def test_a_connection_that_was_cut_at_rest_is_replaced_without_an_error(
    far_store: Store, subject: Subject, network: Proxy
) -> None:
    network.cut()

    eventually(lambda: _writes(far_store), seconds=5, what="the cut has been noticed")

    assert subject.rows() == [row(1)]


def test_a_table_that_is_locked_is_unavailable(far_store: Store, subject: Subject, by_hand: connection) -> None:
    with by_hand.cursor() as cursor:
        cursor.execute("LOCK TABLE event_log")

        with pytest.raises(StoreUnavailable):
            write(far_store, row(1))

    by_hand.rollback()
    assert subject.rows() == []


def test_a_read_only_server_is_unavailable(store: Store, services: Services) -> None:
    assert list(store.problems()) == []
    server = urlsplit(services.postgres.url)
    read_only = server._replace(path="conformance", query="options=-c%20default_transaction_read_only%3Don")
    with closing(connect(urlunsplit(read_only), timeout_seconds=20, own_columns=OWN_COLUMNS)) as reader:
        with pytest.raises(StoreUnavailable):
            write(reader, row(1))
        assert reader.read_back(row(1).window_id) == set()


def test_a_missing_table_is_unavailable(store: Store, subject: SchemaSubject) -> None:
    subject.execute("ALTER TABLE event_log RENAME TO event_log_away")
    try:
        with pytest.raises(StoreUnavailable, match="event_log"):
            write(store, row(1))
    finally:
        subject.execute("ALTER TABLE event_log_away RENAME TO event_log")


@pytest.mark.parametrize("moment", ["10000-01-01 00:00:00+00", "0044-03-15 00:00:00+00 BC", "-infinity"])
def test_a_time_that_python_does_not_know_is_refused(store: Store, moment: str) -> None:
    rows = copy_text(row(1)).replace(b"2024-02-29 12:30:15.123456+00", moment.encode())

    with pytest.raises(RowsRefused, match="event_date_time"):
        store.write(rows, row_count=1, token=FIRST)


def test_a_value_too_large_for_an_index_is_refused(store: Store) -> None:
    kind = "".join(chr(0x4E00 + number * 7919 % 20000) for number in range(4000))

    with pytest.raises(RowsRefused):
        write(store, row(1, event_type=kind))


def test_a_constraint_of_somebody_elses_refuses_rows(store: Store, subject: SchemaSubject) -> None:
    subject.execute("ALTER TABLE event_log ADD CONSTRAINT few CHECK (outbox_id < 100)")

    with pytest.raises(RowsRefused, match="few"):
        write(store, row(1), row(100))

    assert subject.rows() == []


# --- Tokens and months -----------------------------------------------------------------------------------------------


def test_a_trigger_that_raises_an_error_refuses_rows_and_quotes_none(store: Store, subject: SchemaSubject) -> None:
    write(store, row(1))
    subject.execute(
        "CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.outbox_id = 2 THEN"
        " RAISE EXCEPTION 'I do not like %', NEW.event_type; END IF; RETURN NEW; END$$;"
        " CREATE TRIGGER judge BEFORE INSERT ON event_log FOR EACH ROW EXECUTE FUNCTION judge()"
    )
    try:
        with pytest.raises(RowsRefused, match="trigger") as raised:
            write(store, row(2), token=SECOND)
        assert row(2).event_type not in str(raised.value)
        write(store, row(3), token=SECOND)
    finally:
        subject.execute("DROP FUNCTION judge CASCADE")

    assert subject.rows() == [row(1), row(3)]


def test_a_token_that_is_being_written_is_waited_for(store: Store, subject: Subject, by_hand: connection) -> None:
    """A late owner's insert and a new one's at the same time: the second finds what became of the first."""
    with ThreadPoolExecutor(1) as pool, by_hand.cursor() as cursor:
        cursor.execute("INSERT INTO event_log_token (token, month) VALUES (%s, '2024-02-01')", [FIRST])
        writing = pool.submit(write, store, row(1))
        eventually(lambda: _is_waiting(by_hand), seconds=10, what="the write waits for the other one")
        by_hand.rollback()
        writing.result()

    assert subject.rows() == [row(1)]


def test_tokens_are_forgotten_after_a_week(store: Store, subject: SchemaSubject) -> None:
    for number in range(6):
        write(store, row(number), token=f"token {number}")
    subject.execute("UPDATE event_log_token SET written_at = now() - interval '8 days' WHERE token <> 'token 5'")

    for number in range(6, 9):
        write(store, row(number), token=f"token {number}")

    for number in (5, 0):
        write(store, row(number), token=f"token {number}")
    assert subject.rows() == [row(0), *(row(number) for number in range(9))]


def test_a_month_that_was_dropped_comes_back(store: Store, subject: SchemaSubject) -> None:
    write(store, row(1))
    subject.execute("DROP TABLE event_log_2024_02")

    with pytest.raises(StoreUnavailable, match="partition"):
        write(store, row(2), token=SECOND)

    write(store, row(2), token=SECOND)
    assert subject.rows() == [row(2)]


def test_threads_make_the_same_month_once(store: Store, subject: Subject) -> None:
    barrier = threading.Barrier(8)

    def write_one(number: int) -> None:
        barrier.wait(10)
        write(store, row(number, moment=datetime(2031, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)), token=f"{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write_one, range(8)))

    assert len(subject.rows()) == 8


# --- The schema ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("subject")
def test_the_database_is_made_by_migrating(services: Services) -> None:
    server = urlsplit(services.postgres.url)
    url = urlunsplit(server._replace(path="event%20log's%20own"))
    store = connect(url, timeout_seconds=20, own_columns=OWN_COLUMNS)
    try:
        with pytest.raises(StoreUnavailable, match="eventlog migrate"):
            store.now()
        schema.migrate(store)
        write(store, row(1, moment=MOMENT))

        assert store.read_back(row(1).window_id) == {("outbox_event", 1)}
    finally:
        store.close()
        with closing(psycopg2.connect(urlunsplit(server._replace(path="postgres")))) as connection:
            connection.autocommit = True
            connection.cursor().execute("""DROP DATABASE IF EXISTS "event log's own" WITH (FORCE)""")


def test_a_column_waits_only_so_long_for_the_table(
    store: Store, by_hand: connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write queues up behind it: better an error, and once more."""
    monkeypatch.setattr(postgresql, "_LOCK_SECONDS", 1)
    column = next(one for one in store.migrations() if one.number >= FIRST_COLUMN_NUMBER)
    with by_hand.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM event_log")

        with pytest.raises(StoreUnavailable, match="run it again"):
            store.apply_migration(column)


def _writes(store: Store) -> bool:
    try:
        write(store, row(1))
    except (OutcomeUnknown, StoreUnavailable):
        return False
    return True


def _is_waiting(connection: connection) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")
        return cursor.rowcount > 0
