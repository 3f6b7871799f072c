"""What an event costs, in counts that no slow machine excuses: the regression guard on performance."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from django.conf import settings
from django.db import connection, transaction
from django.db.backends.postgresql.psycopg_any import is_psycopg3

from backend.users.use_cases import CreateUser, CreateUserRequest
from tests.benchmarks import holders
from tests.benchmarks.buffers import grown, measuring
from tests.benchmarks.counts import PathCounts, count_path, last_block
from tests.benchmarks.in_process import Dispatched, carry_window, make_dispatcher
from tests.benchmarks.rounds import Pipeline, insert_receipts
from tests.benchmarks.sql_log import counted, counting, server_settings
from tests.benchmarks.traffic import publish_events, publish_users
from tests.clickhouse import client_of
from towpath import Event, publish, publish_many
from towpath.outbox.models import OutboxEvent, all_outboxes
from towpath.watch.figures import COUNTED_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.services import Services
    from towpath.eventlog.store import EventStore

#: The statements are counted in the log of the run's own server.
pytestmark = pytest.mark.own_services

EVENTS = 20_000


class Counted(Event):
    """An event of the tests."""

    number: int


@pytest.fixture
def log(services: Services) -> Path:
    return services.folder / "log" / "postgres.log"


#: Counts do not change from one test to the next, so each size is carried once.
_counted: dict[int, PathCounts] = {}


@pytest.fixture
def path(services: Services, log: Path, store: EventStore) -> Iterator[Callable[[int], PathCounts]]:
    """What a backlog costs on its way, in windows of so many rows."""
    client = client_of(services.clickhouse)

    def count(window_rows: int) -> PathCounts:
        if window_rows not in _counted:
            _counted[window_rows] = count_path(
                log=log, store=store, clickhouse=client, events=EVENTS, window_rows=window_rows
            )
        return _counted[window_rows]

    yield count
    client.close()


#: psycopg 3 takes a COPY in a message of its own only: BEGIN, the settings, COPY, COMMIT.
STATEMENTS_PER_LOAD = 4 if is_psycopg3 else 1
#: Seal, load, the note that the write has begun, ack: a message to PostgreSQL each.
STATEMENTS_PER_WINDOW = 3 + STATEMENTS_PER_LOAD


def test_a_window_costs_a_fixed_number_of_statements_and_one_insert(path: Callable[[int], PathCounts]) -> None:
    """Whatever is added here is added to each window."""
    counts = path(1000)

    assert counts.windows == EVENTS / 1000
    assert counts.statements_per_window <= STATEMENTS_PER_WINDOW
    assert counts.round_trips_per_window <= STATEMENTS_PER_WINDOW + 1
    assert counts.parts == counts.windows


def test_what_another_database_has_inserted_is_not_counted(services: Services) -> None:
    with closing(client_of(services.clickhouse)) as client:
        client.command("CREATE DATABASE IF NOT EXISTS neighbour")
        client.command("CREATE OR REPLACE TABLE neighbour.event_log (n UInt64) ENGINE = MergeTree ORDER BY n")
        client.command("INSERT INTO neighbour.event_log VALUES (1)")

        assert last_block(client) == 0


def test_the_cost_of_a_window_does_not_grow_with_its_rows(path: Callable[[int], PathCounts]) -> None:
    counts = path(10_000)

    assert counts.windows == 2
    assert counts.statements_per_window <= STATEMENTS_PER_WINDOW
    assert counts.parts_per_million_events == 100


def test_a_window_of_a_backlog_is_one_message_whoever_takes_it(path: Callable[[int], PathCounts]) -> None:
    """So a larger fleet makes no smaller windows of a backlog."""
    counts = path(10_000)

    assert settings.TOWPATH.largest_batch_ids == 10_000
    assert counts.messages == counts.windows
    assert counts.messages_per_1000_events <= 1


def test_the_write_ahead_log_of_an_event_is_bounded(path: Callable[[int], PathCounts]) -> None:
    """Dispatch and ack together: an entry of an id list, twice, and a deleted row."""
    counts = path(10_000)

    assert counts.wal_bytes_per_event < 70
    # The user and its index entries, the outbox row and its index entries.
    assert counts.publish.wal_bytes / EVENTS < 900


def test_a_look_that_finds_nothing_is_two_statements_at_most_and_writes_nothing(
    path: Callable[[int], PathCounts],
) -> None:
    counts = path(10_000)

    assert len(counts.quiet_look.statements) <= 1
    assert len(counts.idle_look.statements) <= 2
    # Not nothing: the server notes the running transactions every 15 seconds.
    assert counts.quiet_look.wal_bytes < 500
    assert counts.idle_look.wal_bytes < 500


def test_a_look_that_finds_a_page_of_rows_is_seven_statements(path: Callable[[int], PathCounts]) -> None:
    """Three to look, BEGIN, the cursor's lock, the page, COMMIT."""
    counts = path(10_000)

    assert len(counts.look.statements) <= 7


def test_a_window_of_two_outboxes_costs_one_load_more(log: Path, store: EventStore) -> None:
    dispatched = Dispatched()
    dispatcher = make_dispatcher(all_outboxes(), enqueue=dispatched, in_flight_rows=10_000)
    publish_users(300)
    publish_events(300)
    dispatcher.look()

    with counting(log), counted(log, is_own=True) as counts:
        carry_window(dispatched.batches, store)

    assert len(counts.statements) <= STATEMENTS_PER_WINDOW + STATEMENTS_PER_LOAD
    assert counts.of("COPY") == 2


def test_an_event_costs_the_request_that_publishes_it_one_statement(log: Path) -> None:
    with counting(log):
        with counted(log, is_own=True) as user:
            CreateUser().execute(CreateUserRequest(email="ada@example.com", first_name="Ada", last_name="Lovelace"))
        with counted(log, is_own=True) as event, transaction.atomic():
            publish(Counted(number=1))

    assert [statement.split()[0] for statement in user.statements] == ["BEGIN", "INSERT", "INSERT", "COMMIT"]
    assert [statement.split()[0] for statement in event.statements] == ["BEGIN", "INSERT", "COMMIT"]


def test_ten_thousand_events_at_once_are_ten_statements(log: Path) -> None:
    with counting(log), counted(log, is_own=True) as counts, transaction.atomic():
        publish_many(Counted(number=n) for n in range(10_000))

    assert OutboxEvent.objects.count() == 10_000
    assert counts.of("INSERT") == 10
    # BEGIN, a savepoint so that all of them are published or none, its release, COMMIT.
    assert len(counts.statements) == 14


#: The first of them make the indexes as high as they stay for a while.
FIRST_WINDOWS = 200
WINDOWS = 2_000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_statement_reads_more_than_twice_as_much_after_2000_windows_under_a_snapshot(services: Services) -> None:
    """Of dead rows that no vacuum removes, none is walked: neither on the path nor by those who watch it.

    Whatever the planner believes: of tables that it knows nothing of, and of such as ANALYZE finds, nearly all dead.
    """
    with server_settings({"autovacuum": "off"}), holders.session(services.postgres.url):
        # As many as `status` counts, so that it counts as many each time.
        insert_receipts(COUNTED_ROWS, oldest=timedelta(days=2), newest=timedelta(days=1))
        pipeline = Pipeline.new()
        pipeline.carry(FIRST_WINDOWS, windows_per_look=2, looks_per_turn=10)
        with measuring() as start:
            pipeline.go_round(start)
        pipeline.carry(WINDOWS, windows_per_look=2, looks_per_turn=10)
        with measuring() as end:
            pipeline.go_round(end)
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
        with measuring() as analysed:
            pipeline.go_round(analysed)

    walked = [
        f"{name}: {now} pages instead of {then}, {found.most_read(name)}"
        for found in (end, analysed)
        for name, (then, now) in grown(start.totals, found.totals).items()
    ]
    assert not walked, "\n" + "\n".join(sorted(walked))
