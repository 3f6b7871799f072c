"""Dispatch: how many rows are in flight and in a batch, at most, and whose."""

from __future__ import annotations

import pytest
from django.db import connection

from tests.integration.dispatching import EVENT, USER, Sent, dispatch_all, make_dispatcher
from tests.integration.rows import create_users, ids_in_batches, write_events


def in_flight() -> int:
    return len(ids_in_batches(EVENT)) + len(ids_in_batches(USER))


def test_rows_that_a_look_found_new_and_took_whole_are_no_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("towpath.flow.dispatch._PAGE_ROWS", 7)
    sent = Sent()
    dispatcher = make_dispatcher(sent)

    few = write_events(["{}"] * 6)
    dispatch_all(dispatcher)
    many = write_events(["{}"] * 20)
    dispatch_all(dispatcher)

    assert [batch.ids for batch in sent.batches if not batch.is_backlog] == [few]
    assert sorted(id_ for batch in sent.batches if batch.is_backlog for id_ in batch.ids) == many


def test_a_batch_of_a_backlog_is_as_large_as_a_window_in_ids_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("towpath.flow.dispatch._PAGE_ROWS", 8)
    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=1, batch_bytes=100, backlog_batch_ids=4, backlog_batch_bytes=300)

    write_events(["{}"] * 5)
    dispatch_all(dispatcher)
    write_events(["{}"] * 12)
    dispatch_all(dispatcher)
    write_events([f'"{"x" * 147}"'] * 12)
    dispatch_all(dispatcher)

    sizes: dict[bool, list[int]] = {False: [], True: []}
    for batch in sent.batches:
        sizes[batch.is_backlog].append(len(batch.ids))
    assert sizes == {False: [1] * 5, True: [4] * 3 + [2] * 6}


def test_backlogs_that_share_a_look_take_whole_windows_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or each would have a batch that is not full, and so a small window, in each look."""
    monkeypatch.setattr("towpath.flow.dispatch._PAGE_ROWS", 30)
    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=1, backlog_batch_ids=10)
    users, events = create_users(50), write_events(["{}"] * 50)

    dispatch_all(dispatcher)

    assert {len(batch.ids) for batch in sent.batches} == {10}
    assert (sent.ids(USER), sent.ids(EVENT)) == (users, events)


def test_no_more_rows_than_the_limit_are_in_flight() -> None:
    # Given a backlog of five times the limit
    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=100, in_flight_rows=1000)
    ids = create_users(5000)
    most = 1000 - 1000 // 16  # the rest is kept for what is new

    # When the dispatcher looks as often as it likes
    for _ in range(20):
        assert dispatcher.look()
    assert in_flight() == most

    # And when some of it is delivered, there is room for as much again
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM pipeline_batch WHERE id IN (SELECT id FROM pipeline_batch ORDER BY id DESC LIMIT 3)"
        )
    for _ in range(20):
        dispatcher.look()
    assert in_flight() == most

    # And in the end each row has been sent once
    with connection.cursor() as cursor:
        while dispatcher.look():
            assert in_flight() <= most
            cursor.execute("DELETE FROM pipeline_batch")
    assert sent.ids(USER) == sorted(ids)


def test_the_limit_of_rows_in_flight_holds_for_all_outboxes_together() -> None:
    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=100, in_flight_rows=150)
    create_users(2000)
    write_events(["{}"] * 2000)

    for _ in range(30):
        dispatcher.look()

    assert 0 < in_flight() <= 150


def test_a_limit_below_the_size_of_a_batch_is_still_the_limit() -> None:
    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=500, in_flight_rows=100)
    create_users(2000)

    for _ in range(5):
        dispatcher.look()

    assert 0 < in_flight() <= 100


def test_an_outbox_with_a_backlog_does_not_starve_the_other() -> None:
    # Given a backlog in one outbox, as much in flight as may be, and three rows in the other
    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=100, in_flight_rows=500)
    write_events(["{}"] * 20_000)
    dispatcher.look()
    ids = create_users(3)

    # When deliveries make room for a batch at a time
    for _ in range(10):
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM pipeline_batch WHERE id = (SELECT min(id) FROM pipeline_batch)")
        dispatcher.look()

    # Then the three are on their way, long before the backlog is
    assert sent.ids(USER) == sorted(ids)
    assert len(sent.ids(EVENT)) < 5000


def test_batches_of_a_frozen_outbox_are_bounded_by_bytes() -> None:
    sent = Sent()
    dispatcher = make_dispatcher(sent, batch_ids=100, batch_bytes=10_000)
    ids = write_events(["x" * 3000] * 30 + ["x" * 50_000] * 2 + ["x"] * 10)

    dispatch_all(dispatcher)

    # Then a batch exceeds the limit by one row at most, and its size is that of its payloads
    assert len(sent.batches) > 9
    assert sent.ids(EVENT) == ids
    sizes = dict(zip(ids, [3000] * 30 + [50_000] * 2 + [1] * 10, strict=True))
    for batch in sent.batches:
        assert batch.bytes == sum(sizes[id_] for id_ in batch.ids)
        assert batch.bytes - max(sizes[id_] for id_ in batch.ids) <= 10_000
