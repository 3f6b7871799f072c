"""Dispatch: every committed row in exactly one batch, whatever the order of the commits."""

from __future__ import annotations

import random
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from django.db import connection, transaction

from tests.integration.dispatching import EVENT, USER, Sent, dispatch_all, make_dispatcher
from tests.integration.rows import create_users, ids_in_batches, write_events
from tests.integration.threads import all_at_once
from towpath.ledger.models import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg2.extensions import connection as PostgresSession  # noqa: N812 - a class

    from towpath.flow.dispatch import Dispatcher

WRITERS = 20


def insert_in(session: PostgresSession, count: int) -> list[int]:
    """Rows of an open transaction; their ids."""
    with session.cursor() as cursor:
        cursor.execute(
            "INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version)"
            " SELECT 'tested', now(), '{}', 1 FROM generate_series(1, %s) RETURNING id",
            [count],
        )
        return [id_ for (id_,) in cursor.fetchall()]


def write_like_an_application(seed: int, *, transactions: int) -> list[int]:
    """Transactions of random length that commit or roll back, with savepoints that do; the ids that were committed."""
    chance = random.Random(seed)
    committed: list[int] = []
    for _ in range(transactions):
        written: list[int] = []
        with transaction.atomic():
            written += write_events(["{}"] * chance.randint(1, 3))
            time.sleep(chance.uniform(0, 0.02))
            if chance.random() < 0.4:
                with transaction.atomic():
                    inner = write_events(["{}"])
                    if chance.random() < 0.5:
                        transaction.set_rollback(True)
                    else:
                        written += inner
            time.sleep(chance.uniform(0, 0.01))
            if chance.random() < 0.25:
                transaction.set_rollback(True)
                written = []
        committed += written
    return committed


def dispatch_beside_writers(*dispatchers: Dispatcher, writers: int, transactions: int) -> list[int]:
    """What the writers committed while each dispatcher looked all the time. At the end, all of it is dispatched."""
    is_over = threading.Event()

    def dispatch(dispatcher: Dispatcher) -> list[int]:
        while not is_over.is_set():
            dispatcher.look()
        dispatch_all(dispatcher)
        return []

    def write_all() -> list[int]:
        applications = [partial(write_like_an_application, seed, transactions=transactions) for seed in range(writers)]
        try:
            return [id_ for ids in all_at_once(applications) for id_ in ids]
        finally:
            is_over.set()

    looking: list[Callable[[], list[int]]] = [partial(dispatch, dispatcher) for dispatcher in dispatchers]
    return all_at_once([write_all, *looking])[0]


def test_each_committed_row_of_concurrent_writers_gets_into_exactly_one_batch() -> None:
    # Given a dispatcher that looks all the time while twenty writers commit out of order
    sent = Sent()

    # When all have written, and it has looked a last time
    committed = dispatch_beside_writers(make_dispatcher(sent, batch_ids=7), writers=WRITERS, transactions=25)

    # Then exactly what was committed has been sent, each once, and the ledger agrees
    assert len(committed) > WRITERS * 10
    assert len(sent.batches) > 20, "the dispatcher did not run beside the writers"
    assert sent.ids(EVENT) == sorted(committed)
    assert ids_in_batches(EVENT) == sorted(committed)


def test_an_open_transaction_holds_nobody_up_and_its_row_arrives_once_after_its_commit(
    session: PostgresSession,
) -> None:
    # Given a transaction that has written first and stays open
    sent = Sent()
    dispatcher = make_dispatcher(sent)
    late = insert_in(session, 1)

    # When others come and go, and the dispatcher looks after each
    for _ in range(30):
        others = write_events(["{}"])
        dispatch_all(dispatcher)
        # Then they are dispatched immediately, and the open one is not
        assert sent.batches[-1].ids == others
    assert late[0] not in sent.times(EVENT)

    # When it commits at last, its row is dispatched, once
    session.commit()
    dispatch_all(dispatcher)
    dispatch_all(dispatcher)
    assert sent.batches[-1].ids == late
    assert set(sent.times(EVENT).values()) == {1}


def test_a_transaction_that_began_before_the_first_look_and_wrote_after_it_is_found(session: PostgresSession) -> None:
    sent = Sent()
    dispatcher = make_dispatcher(sent)
    with session.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()")  # it has its number from now on
    others = write_events(["{}"])
    dispatch_all(dispatcher)

    late = insert_in(session, 2)
    session.commit()
    dispatch_all(dispatcher)

    assert sent.ids(EVENT) == sorted(others + late)


def test_rolled_back_rows_are_never_dispatched(session: PostgresSession) -> None:
    sent = Sent()
    dispatcher = make_dispatcher(sent)
    insert_in(session, 3)
    dispatch_all(dispatcher)
    session.rollback()
    kept = write_events(["{}"])

    dispatch_all(dispatcher)

    assert sent.ids(EVENT) == kept


def test_a_backlog_is_paged_and_what_commits_in_between_is_not_missed(
    session: PostgresSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a page of seven rows, a transaction with more rows than that from before the first look, and a backlog
    monkeypatch.setattr("towpath.flow.dispatch._PAGE_ROWS", 7)
    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=3)
    opened_before = insert_in(session, 20)
    committed = write_events(["{}"] * 5)
    dispatch_all(dispatcher)
    committed += write_events(["{}"] * 50)

    # When each page is followed by a commit, one of them that of the open transaction
    for page in range(30):
        dispatcher.look()
        if page == 3:
            session.commit()
            committed += opened_before
        if page < 15:
            committed += write_events(["{}"] * 2)
    dispatch_all(dispatcher)

    # Then each row has been sent once, no page was larger than seven rows, no batch larger than three
    assert sent.ids(EVENT) == sorted(committed)
    assert max(len(batch.ids) for batch in sent.batches) == 3


def test_a_page_never_takes_more_rows_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("towpath.flow.dispatch._PAGE_ROWS", 7)
    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=3)
    ids = write_events(["{}"] * 20)

    pages = []
    while True:
        before = len(sent.ids(EVENT))
        is_more = dispatcher.look()
        pages.append(len(sent.ids(EVENT)) - before)
        if not is_more:
            break

    assert pages == [7, 7, 6]
    assert sent.ids(EVENT) == ids


def test_two_dispatchers_never_put_a_row_into_two_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given two dispatchers that both look all the time, page by page, and four writers
    monkeypatch.setattr("towpath.flow.dispatch._PAGE_ROWS", 10)
    sent = [Sent(), Sent()]

    committed = dispatch_beside_writers(
        *(make_dispatcher(each, batch_ids=4) for each in sent), writers=4, transactions=40
    )

    # Then both have worked, and no row is in two batches
    assert all(one.batches for one in sent)
    assert sorted(sent[0].ids(EVENT) + sent[1].ids(EVENT)) == sorted(committed)
    assert ids_in_batches(EVENT) == sorted(committed)


def test_a_dispatcher_does_not_wait_for_one_that_holds_the_cursor(session: PostgresSession) -> None:
    # Given another dispatcher in the middle of its page
    sent = Sent()
    dispatcher = make_dispatcher(sent)
    write_events(["{}"])
    with session.cursor() as cursor:
        cursor.execute("SELECT FROM pipeline_cursor FOR UPDATE")
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '5s'")  # a dispatcher that waits fails, instead of hanging for ever

    # When this one looks, it finds nothing to do
    dispatcher.look()
    assert sent.batches == []

    # And when the other one is gone, it does the work
    session.rollback()
    dispatch_all(dispatcher)
    assert len(sent.batches) == 1


def test_ids_of_a_message_are_those_of_its_batch_in_the_ledger_in_ascending_order() -> None:
    sent = Sent()
    create_users(1200)
    dispatch_all(make_dispatcher(sent))

    with connection.cursor() as cursor:
        cursor.execute("SELECT id, outbox, ids, rows, bytes FROM pipeline_batch ORDER BY id")
        ledger = cursor.fetchall()

    assert [(batch.id, batch.outbox, batch.ids, len(batch.ids), batch.bytes) for batch in sent.batches] == ledger
    assert [len(batch.ids) for batch in sent.batches] == [500, 500, 200]
    assert all(batch.ids == sorted(batch.ids) for batch in sent.batches)


def test_a_message_that_cannot_be_sent_leaves_its_batch_in_the_ledger() -> None:
    class Down(Sent):
        def __call__(self, batch: object) -> None:
            raise ConnectionError(batch)

    ids = create_users(3)
    with pytest.raises(ConnectionError):
        make_dispatcher(Down()).look()

    # Then the rows are in a batch, for recovery, and are not dispatched again
    sent = Sent()
    dispatch_all(make_dispatcher(sent))
    assert sent.batches == []
    assert ids_in_batches(USER) == sorted(ids)


def rewind_cluster() -> None:
    """What a restore into a fresh cluster leaves: a cursor and rows with ids of transactions to come."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_cursor SET seen = '1000000000:1000000000:'")
        cursor.execute("UPDATE outbox_event SET xid = '999999999'")


def test_a_cursor_from_before_a_restore_is_rewound_and_leaves_out_what_the_ledger_holds() -> None:
    # Given rows in an open batch, a dead letter, and rows nobody has dispatched, all restored into a fresh cluster
    in_a_batch = write_events(["{}"] * 10)
    dispatch_all(make_dispatcher(Sent()))
    dead, *waiting = write_events(["{}"] * 6)
    DeadLetter.objects.create(
        outbox=EVENT,
        row_id=dead,
        error="",
        window_id="11111111-2222-3333-4444-555555555555",
        at="2026-01-01T00:00:00Z",
    )
    rewind_cluster()
    after_the_restore = write_events(["{}"] * 3)

    # When the dispatcher looks
    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=2)
    dispatch_all(dispatcher)
    dispatch_all(dispatcher)

    # Then it sends what nobody has sent, once, and continues as usual
    assert sent.ids(EVENT) == sorted(waiting + after_the_restore)
    later = write_events(["{}"])
    dispatch_all(dispatcher)
    assert sent.ids(EVENT) == sorted(waiting + after_the_restore + later)
    assert ids_in_batches(EVENT) == sorted(in_a_batch + waiting + after_the_restore + later)


def test_a_rewound_cursor_is_paged_like_every_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("towpath.flow.dispatch._PAGE_ROWS", 7)
    in_a_batch = write_events(["{}"] * 20)
    dispatch_all(make_dispatcher(Sent()))
    waiting = write_events(["{}"] * 40)
    rewind_cluster()

    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=3)
    for _ in range(4):
        dispatcher.look()
        waiting += write_events(["{}"] * 2)
    dispatch_all(dispatcher)

    assert sent.ids(EVENT) == sorted(waiting)
    assert ids_in_batches(EVENT) == sorted(in_a_batch + waiting)


def test_rows_written_after_a_restore_before_the_first_look_are_found_though_the_ids_have_caught_up() -> None:
    # Given a cursor of another cluster, a little ahead of the restored one
    dispatcher = make_dispatcher(sent := Sent())
    write_events(["{}"])
    dispatch_all(dispatcher)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pipeline_cursor SET cluster = 'another', seen = (x || ':' || x || ':')::pg_snapshot"
            " FROM (SELECT (pg_snapshot_xmax(pg_current_snapshot())::text::bigint + 20)::text AS x) AS ahead"
        )

    # When more transactions than that are committed before the dispatcher looks for the first time
    written = [id_ for _ in range(50) for id_ in write_events(["{}"])]
    dispatch_all(dispatcher)

    # Then none of them is passed over
    assert set(written) - set(sent.ids(EVENT)) == set()


def test_an_outbox_added_later_gets_a_cursor_and_its_backlog_is_dispatched() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM pipeline_cursor WHERE outbox = 'outbox_user'")
    ids = create_users(5)

    dispatch_all(make_dispatcher(sent := Sent()))

    assert sent.ids(USER) == sorted(ids)


def test_a_look_at_an_idle_outbox_writes_nothing() -> None:
    dispatcher = make_dispatcher(Sent())
    write_events(["{}"])
    dispatch_all(dispatcher)

    def next_transaction_id() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
            return int(cursor.fetchone()[0])

    before = next_transaction_id()
    for _ in range(50):
        assert not dispatcher.look()

    # Then hardly a transaction id was used (autovacuum takes some)
    assert next_transaction_id() - before < 10
