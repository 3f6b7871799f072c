"""Runs: what is new is dispatched beside a backlog, and waits for none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import connection

from tests.integration.block_reads import block_reads
from tests.integration.dispatching import Sent, dispatch_all, make_dispatcher
from tests.integration.rows import create_users, ids_in_batches, write_events
from towpath.ledger import cursors
from towpath.ledger.models import Cursor

if TYPE_CHECKING:
    from psycopg2.extensions import connection as PostgresSession  # noqa: N812 - a class

EVENT, USER = "outbox_event", "outbox_user"


@pytest.fixture(autouse=True)
def _pages_of_a_hundred_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("towpath.flow.dispatch._PAGE_ROWS", 100)


def giant(rows: int, *, session: PostgresSession | None = None) -> None:
    """Rows of one transaction."""
    with (session or connection).cursor() as cursor:
        cursor.execute(
            "INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version)"
            " SELECT 'tested', now(), '{}', 1 FROM generate_series(1, %s)",
            [rows],
        )


def runs_of(outbox: str) -> int:
    return len(Cursor.objects.get(outbox=outbox).runs)


def test_an_event_committed_just_after_a_giant_waits_for_one_look() -> None:
    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=50)
    giant(2000)
    dispatcher.look()

    for _ in range(5):
        ids = write_events(["{}"] * 3)
        assert dispatcher.look()

        # They are the first that the look sends, and a page of the giant goes with them
        assert [(batch.ids, batch.is_backlog) for batch in sent.batches[-3:]] == [
            (ids, False),
            (sent.batches[-2].ids, True),
            (sent.batches[-1].ids, True),
        ]
        assert len(sent.batches[-1].ids) == len(sent.batches[-2].ids) == 50
    assert runs_of(EVENT) == 1
    dispatch_all(dispatcher)
    assert set(sent.times(EVENT).values()) == {1}
    assert len(sent.ids(EVENT)) == 2015


def test_an_event_committed_after_several_giants_waits_for_none_of_them() -> None:
    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=50)
    for _ in range(3):
        giant(1000)
        dispatcher.look()
    assert runs_of(EVENT) == 3

    ids = write_events(["{}"])
    dispatcher.look()
    assert set(ids) <= sent.times(EVENT).keys()

    # And each gets its turn
    for _ in range(3):
        dispatcher.look()
    begun = [run["page"] is not None for run in Cursor.objects.get(outbox=EVENT).runs]
    assert begun == [True] * 3
    dispatch_all(dispatcher)
    assert set(sent.times(EVENT).values()) == {1}
    assert len(sent.ids(EVENT)) == 3001


def test_an_event_committed_after_a_backlog_of_many_small_transactions_waits_for_one_look() -> None:
    sent = Sent()
    write_events(["{}"] * 1500)
    with connection.cursor() as cursor:
        cursor.execute(
            "DO $$ BEGIN FOR n IN 1..300 LOOP INSERT INTO outbox_event"
            " (event_type, event_date_time, event_context, metadata_version)"
            " VALUES ('tested', now(), '{}', 1); COMMIT; END LOOP; END $$"
        )
    dispatcher = make_dispatcher(sent, batch_ids=50)
    dispatcher.look()

    ids = write_events(["{}"])
    dispatcher.look()

    assert set(ids) <= sent.times(EVENT).keys()
    assert len(sent.ids(EVENT)) < 500


def test_a_giant_in_one_outbox_holds_up_no_other() -> None:
    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=50)
    giant(2000)
    dispatcher.look()

    ids = create_users(2)
    dispatcher.look()

    assert sent.ids(USER) == sorted(ids)
    assert not next(batch for batch in sent.batches if batch.outbox == USER).is_backlog


def test_a_giant_never_fills_the_room_that_is_kept_for_what_is_new() -> None:
    # Given nothing is delivered, and a giant has all the room there is for it
    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=10, in_flight_rows=320)
    giant(2000)
    for _ in range(10):
        dispatcher.look()
    assert len(ids_in_batches(EVENT)) == 300

    # When events come one by one, each is dispatched by the next look, until it is their own kind that has no room
    for _ in range(10):
        ids = write_events(["{}"])
        dispatcher.look()
        assert sent.batches[-1].ids == ids
    late = write_events(["{}"])
    dispatcher.look()
    assert not set(late) & sent.times(EVENT).keys()

    # Then another outbox has room yet
    ids = create_users(10)
    dispatcher.look()
    assert sent.ids(USER) == sorted(ids)
    assert len(ids_in_batches(EVENT)) + len(ids_in_batches(USER)) == 320


def test_a_cursor_with_all_runs_that_it_may_have_still_takes_what_is_new_and_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("towpath.ledger.take.MOST_RUNS", 2)
    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=50)
    for _ in range(2):
        giant(1000)
        dispatcher.look()

    ids = write_events(["{}"])
    dispatcher.look()
    assert set(ids) <= sent.times(EVENT).keys()

    # A third giant waits, and is not lost
    giant(1000)
    dispatcher.look()
    assert runs_of(EVENT) == 2
    dispatch_all(dispatcher)
    assert len(sent.ids(EVENT)) == len(sent.times(EVENT)) == 3001


def test_what_is_new_waits_for_no_cursor_that_is_rewound() -> None:
    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=50)
    write_events(["{}"] * 150)
    dispatcher.look()
    giant(1000)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_cursor SET cluster = 'another', runs = '[]'")
    dispatcher.look()

    ids = write_events(["{}"])
    dispatcher.look()
    assert set(ids) <= sent.times(EVENT).keys()

    dispatch_all(dispatcher)
    assert len(sent.ids(EVENT)) == len(sent.times(EVENT)) == 1151


def test_a_look_reads_nothing_of_a_giant_that_is_not_committed_yet(session: PostgresSession) -> None:
    dispatcher = make_dispatcher(Sent())

    def look() -> None:
        write_events(["{}"])
        dispatcher.look()

    look()
    look()
    start = block_reads(EVENT, look)
    giant(20_000, session=session)
    look()

    assert block_reads(EVENT, look) <= 2 * start


def test_a_row_with_an_xid_to_come_does_not_keep_the_dispatcher_busy() -> None:
    dispatcher = make_dispatcher(Sent())
    write_events(["{}"])
    dispatch_all(dispatcher)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE outbox_event SET xid = '9999999999'")

    assert [news for news in cursors.news([EVENT]) if news.has_new or news.has_runs] == []
