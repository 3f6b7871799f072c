"""Rows whose transaction id is from elsewhere: `status` names them, `pipeline recover` brings them back, once."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING

import psycopg2
import pytest
from django.core import serializers
from django.core.management import call_command
from django.db import connection, transaction

from backend.users.models import OutboxUser
from tests.integration.dispatching import Sent, dispatch_all, make_dispatcher
from tests.integration.manage import here, status
from tests.integration.rows import create_users, ids_in_batches, undelivered, write_events
from tests.integration.windows import deliver, seal
from tests.poison import give_limits_back, take_limits_away
from towpath import driver
from towpath.flow import deadletters, stranded
from towpath.flow.delivery import Delivery
from towpath.flow.stranded import bring_back
from towpath.ledger.models import DeadLetter
from towpath.outbox.models import OutboxEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.event_log import EventLog
    from tests.services import Services
    from towpath.eventlog.store import EventStore

EVENT = "outbox_event"
LETTER = {"error": "", "window_id": "11111111-2222-3333-4444-555555555555", "at": "2026-01-01T00:00:00Z"}
COLUMNS = "event_type, event_date_time, event_context, metadata_version"


def run(sql: str, *values: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)


def deliver_all(store: EventStore) -> None:
    sent = Sent()
    dispatch_all(make_dispatcher(sent))
    if (window := seal([batch.id for batch in sent.batches])) is not None:
        assert deliver(window, store) is Delivery.ACKED


def back_up(store: EventStore, event_log: EventLog) -> None:
    """Ten rows that are neither in their outbox nor stored, but in the table `backup`."""
    write_events([json.dumps({"n": n}) for n in range(10)])
    run(f"CREATE TEMP TABLE backup AS SELECT id, xid, {COLUMNS} FROM {EVENT}")
    deliver_all(store)
    event_log.clear()


def complaints() -> list[str]:
    return [problem for problem in status()["problems"] if "never be dispatched" in problem]


def by_insert_select() -> None:
    run(f"INSERT INTO {EVENT} (id, xid, {COLUMNS}) SELECT id + 1000, xid, {COLUMNS} FROM backup")


def by_copy() -> None:
    with driver.cursor() as cursor:
        cursor.execute(f"SELECT id + 1000, xid, {COLUMNS} FROM backup")
        lines = "".join("\t".join(map(str, row)) + "\n" for row in cursor.fetchall())
        driver.copy_in(cursor, lines.encode(), before="SET DateStyle = 'ISO'", to=f"{EVENT} (id, xid, {COLUMNS})")


def by_loaddata() -> None:
    rows = OutboxEvent.objects.raw("SELECT *, NULL::jsonb AS bound FROM backup")
    with transaction.atomic():
        for one in serializers.deserialize("json", serializers.serialize("json", rows)):
            one.save()


def by_a_saved_copy() -> None:
    with transaction.atomic():
        for row in OutboxEvent.objects.raw("SELECT *, NULL::jsonb AS bound FROM backup"):
            row.pk = None
            row._state.adding = True
            row.save()


def by_replication(services: Services) -> None:
    """As a subscription's worker, which is a superuser's, and for which ordinary triggers do not fire."""
    rows = []
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT id + 1000, xid, {COLUMNS} FROM backup")
        rows = cursor.fetchall()
    with (
        contextlib.closing(psycopg2.connect(services.postgres.superuser_url)) as other,
        other,
        other.cursor() as cursor,
    ):
        cursor.execute("SET session_replication_role = replica")
        cursor.executemany(f"INSERT INTO {EVENT} (id, xid, {COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s)", rows)


def by_update() -> None:
    run(f"INSERT INTO {EVENT} ({COLUMNS}) SELECT {COLUMNS} FROM backup")
    run(f"UPDATE {EVENT} SET xid = (SELECT min(xid::text)::xid8 FROM backup)")


def ahead() -> None:
    run(f"INSERT INTO {EVENT} (xid, {COLUMNS}) SELECT '100000000000', {COLUMNS} FROM backup")


def from_the_beginning_of_time() -> None:
    run(f"INSERT INTO {EVENT} (xid, {COLUMNS}) SELECT '0', {COLUMNS} FROM backup")


@pytest.mark.parametrize(
    "put_back",
    [
        by_insert_select,
        by_copy,
        by_update,
        ahead,
        from_the_beginning_of_time,
    ],
)
def test_rows_with_an_xid_from_elsewhere_are_named_and_brought_back_once(
    put_back: Callable[[], None], store: EventStore, event_log: EventLog
) -> None:
    # Given ten rows that were deleted, as if by a mistake, and are put back
    back_up(store, event_log)
    put_back()
    deliver_all(store)

    # When nothing finds them, then status says so, with count, age and command
    assert undelivered() == {EVENT: 10}
    (problem,) = complaints()
    assert problem.startswith(f"10 row(s) of {EVENT} will never be dispatched, the first from 2026-03-04 05:06:07")
    assert "pipeline recover" in problem
    assert here("pipeline", "status").returncode == 1

    # And the command lets the dispatcher see them, each once
    assert json.loads(here("pipeline", "recover", "--json").stdout)["stranded_rows"] == 10
    assert complaints() == []
    assert bring_back() == {}
    deliver_all(store)
    assert undelivered() == {}
    found = [json.loads(event.event_context) for event in event_log.events() if event.event_type != "recovery_run"]
    assert sorted(one["n"] for one in found) == [*range(10)]


def test_it_can_be_stopped_and_continues_where_it_was(
    monkeypatch: pytest.MonkeyPatch, store: EventStore, event_log: EventLog
) -> None:
    back_up(store, event_log)
    by_insert_select()
    deliver_all(store)
    monkeypatch.setattr(stranded, "_ROWS_PER_STEP", 4)

    assert bring_back(should_stop=lambda: True) == {EVENT: 4}
    assert bring_back() == {EVENT: 6}


def test_rows_of_a_subscription_are_named_and_brought_back_once(
    services: Services, store: EventStore, event_log: EventLog
) -> None:
    test_rows_with_an_xid_from_elsewhere_are_named_and_brought_back_once(
        lambda: by_replication(services), store, event_log
    )


@pytest.mark.parametrize("put_back", [by_loaddata, by_a_saved_copy])
def test_rows_that_the_orm_puts_back_get_an_xid_of_their_own(
    put_back: Callable[[], None], store: EventStore, event_log: EventLog
) -> None:
    back_up(store, event_log)
    put_back()
    assert complaints() == []

    deliver_all(store)

    found = [json.loads(event.event_context) for event in event_log.events() if event.event_type != "recovery_run"]
    assert sorted(one["n"] for one in found) == [*range(10)]
    assert complaints() == []


def test_what_a_batch_or_a_dead_letter_holds_and_what_waits_is_not_stranded() -> None:
    # Given rows in open batches, a dead letter, rows of an open transaction, and rows that wait
    held = [*write_events(["{}"] * 10), *create_users(3)]
    dispatch_all(dispatcher := make_dispatcher(Sent()))
    (dead,) = write_events(["{}"])
    dispatch_all(dispatcher)
    run("DELETE FROM pipeline_batch WHERE ids = ARRAY[%s]::bigint[]", dead)
    DeadLetter.objects.create(outbox=EVENT, row_id=dead, **LETTER)
    waiting = write_events(["{}"] * 5)
    with transaction.atomic():
        own = write_events(["{}"])
        assert bring_back() == {}
    assert complaints() == []
    assert bring_back() == {}

    dispatch_all(make_dispatcher(sent := Sent()))
    assert sent.ids(EVENT) == sorted(waiting + own)
    assert len(held) == 13


def test_a_row_of_a_transaction_that_was_open_at_the_last_look_is_not_stranded() -> None:
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(f"INSERT INTO {EVENT} ({COLUMNS}) VALUES ('late', now(), '{{}}', 1)")
        write_events(["{}"])
        dispatch_all(make_dispatcher(Sent()))
        cursor.execute("COMMIT")
    other.close()

    assert complaints() == []
    assert bring_back() == {}
    dispatch_all(make_dispatcher(sent := Sent()))
    assert len(sent.ids(EVENT)) == 1


@pytest.mark.parametrize("state", ["paged", "rewound", "another cluster", "no cursor"])
def test_an_unfinished_look_strands_nothing(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("towpath.flow.dispatch._PAGE_ROWS", 7)
    write_events(["{}"] * 3)
    dispatch_all(dispatcher := make_dispatcher(Sent(), batch_ids=3))
    write_events(["{}"] * 40)
    if state == "paged":
        assert dispatcher.look()
    else:
        change = {
            "rewound": "UPDATE pipeline_cursor SET seen = '1:1:', is_rewound = true, runs = '[]'",
            "another cluster": "UPDATE pipeline_cursor SET cluster = 'another', seen = '1000000000:1000000000:'",
            "no cursor": "DELETE FROM pipeline_cursor",
        }
        run(change[state])

    assert complaints() == []
    assert bring_back() == {}


def test_rows_brought_back_twice_are_dispatched_once() -> None:
    write_events(["{}"] * 10)
    dispatch_all(dispatcher := make_dispatcher(sent := Sent()))
    run("DELETE FROM pipeline_batch")
    sent.batches.clear()

    assert bring_back() == {EVENT: 10}
    dispatch_all(dispatcher)
    assert bring_back() == {}
    dispatch_all(dispatcher)

    assert set(sent.times(EVENT).values()) == {1}
    assert len(ids_in_batches(EVENT)) == 10


def test_a_dead_letter_stays_one_and_a_row_that_breaks_the_limits_becomes_one() -> None:
    (dead,) = write_events(["{}"])
    DeadLetter.objects.create(outbox=EVENT, row_id=dead, **LETTER)
    take_limits_away()
    (poison,) = write_events(["{}"], at="infinity")
    good = write_events(["{}"] * 2)
    dispatch_all(dispatcher := make_dispatcher(sent := Sent()))
    run("DELETE FROM pipeline_batch")
    sent.batches.clear()
    give_limits_back()

    bring_back()

    dispatch_all(dispatcher)
    assert sent.ids(EVENT) == good
    assert sorted(letter.row_id for letter in deadletters.find(None)) == [dead, poison]
    assert complaints() == []


def test_a_restored_dead_letter_that_breaks_the_limits_does_not_stop_the_dispatcher() -> None:
    (poison,) = write_events(["{}"], at="infinity")
    DeadLetter.objects.create(outbox=EVENT, row_id=poison, **LETTER)
    give_limits_back()
    dispatch_all(dispatcher := make_dispatcher(sent := Sent()))
    take_limits_away()
    run("UPDATE outbox_event SET xid = '999999999'")
    give_limits_back()
    run("UPDATE pipeline_cursor SET seen = '1000000000:1000000000:'")
    good = write_events(["{}"] * 2)
    sent.batches.clear()

    dispatch_all(dispatcher)

    assert sent.ids(EVENT) == good


@pytest.mark.slow
@pytest.mark.timing
def test_a_look_for_stranded_rows_is_quick_whatever_waits_and_however_many_there_are() -> None:
    # Given 300,000 stranded rows, 100,000 in flight, and 300,000 that wait
    insert = f"INSERT INTO {EVENT} ({COLUMNS}) SELECT 'many', '2026-01-01', '{{}}', 1 FROM generate_series(1, %s)"
    run(insert, 300_000)
    dispatch_all(make_dispatcher(Sent()))
    run("DELETE FROM pipeline_batch")
    run(insert, 100_000)
    dispatch_all(make_dispatcher(Sent()))
    run(insert, 300_000)

    started = time.monotonic()
    (problem,) = complaints()

    assert "10,000 or more row(s)" in problem
    assert time.monotonic() - started < 3


def test_stranded_rows_of_a_lean_outbox_are_named_with_the_time_of_their_event() -> None:
    create_users(2)
    dispatch_all(make_dispatcher(Sent()))
    run("DELETE FROM pipeline_batch")

    (problem,) = complaints()
    assert problem.startswith("2 row(s) of outbox_user will never be dispatched, the first from 20")
    assert call_command("pipeline", "recover") is None
    assert OutboxUser.objects.count() == 2
    assert complaints() == []
