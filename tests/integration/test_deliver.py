"""Deliver: what the event store holds is what was published, byte for byte, each row once."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import connection, transaction
from pytest_django import Settings
from structlog.testing import capture_logs

from backend.users.models import OutboxUser
from tests.administering import administer
from tests.benchmarks.buffers import measuring
from tests.integration.event_log import EventLog
from tests.integration.invariants import assert_delivered
from tests.integration.rows import create_users, undelivered, write_events
from tests.integration.scraping import Counted
from tests.integration.stores import LosesAnswers
from tests.integration.windows import (
    age_batches,
    claim_expired,
    deliver,
    deliver_all,
    dispatched,
    expire_leases,
    recover,
    seal,
    sealed,
    taken_over,
)
from tests.knobs import Knobs
from tests.services import Services
from towpath.errors import WindowTooLarge
from towpath.eventlog import schema
from towpath.eventlog.connect import connect
from towpath.eventlog.errors import StoreUnavailable
from towpath.eventlog.store import Store
from towpath.flow.delivery import Delivery
from towpath.flow.load import load
from towpath.ledger.models import Window
from towpath.ledger.windows import SealedWindow
from towpath.outbox.models import OutboxEvent


def test_a_window_carries_rows_of_several_outboxes(store: Store, event_log: EventLog) -> None:
    users, events = create_users(300), write_events(["{}"] * 200)

    deliver_all(store)

    assert event_log.identities() == {("outbox_user", id_) for id_ in users} | {("outbox_event", id_) for id_ in events}
    assert event_log.window_sizes() == [500]
    assert_delivered(event_log, committed=500)


def test_a_first_bulk_import_is_read_row_by_row_though_statistics_were_taken_in_the_middle_of_it(
    services: Services,
) -> None:
    """PostgreSQL then takes the tables for empty, and knows nothing of their columns."""
    with transaction.atomic():
        create_users(5000)
        administer(
            services.postgres.superuser_url,
            "DELETE FROM pg_statistic WHERE starelid IN ('users'::regclass, 'outbox_user'::regclass)",
            "ANALYZE users, outbox_user",
        )
    window = seal(dispatched(batch_ids=100)[-1:])
    assert window is not None

    with measuring() as buffers, buffers.during("load"):
        loaded = load(window, environment="test", max_bytes=None)

    # The row of the outbox, and the user's place in the index, and the user.
    assert loaded.row_count == 100
    assert sum(buffers.totals.values()) < 10 * 100, buffers.by_relation


def test_a_window_over_many_months_is_written_whole_and_replayed_whole(store: Store, event_log: EventLog) -> None:
    # Given a window whose rows are of 110 months
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version)"
            " SELECT 'tested', '2015-01-15 UTC'::timestamptz + make_interval(months => n), '{}', 1"
            " FROM generate_series(1, 110) AS n, generate_series(1, 3)"
        )
    window = sealed()

    # When its insert arrives three times, but no answer to it, and somebody takes it over
    write_without_ack(store, window)
    loaded = load(window, environment="test", max_bytes=None)
    for _ in range(2):
        store.write(loaded.rows, row_count=loaded.row_count, token=str(window.id))
    assert deliver(taken_over(window), store) is Delivery.ACKED

    assert_delivered(event_log, committed=330)


def write_without_ack(store: Store, window: SealedWindow) -> None:
    """What an owner leaves that died, or lost the answer, after its insert."""
    assert deliver(window, LosesAnswers(store)) is Delivery.POSTPONED


def test_every_owner_has_the_rows_in_one_order_whatever_order_the_ledger_names_the_outboxes_in() -> None:
    """A window is cut at places among its rows, each part under a token of its own."""
    create_users(2)
    write_events(["{}"] * 2)
    window = sealed()
    expire_leases()
    claimed = claim_expired()
    assert claimed is not None
    turned = replace(claimed, rows=dict(reversed([*claimed.rows.items()])))

    orders = [load(owned, environment="test", max_bytes=None).lines() for owned in (window, claimed, turned)]

    assert orders[0] == orders[1] == orders[2]
    assert len(orders[0]) == 4


def test_a_row_of_20_mib_is_delivered_alone_in_its_window(store: Store, event_log: EventLog, knobs: Knobs) -> None:
    knobs(window_bytes=1024 * 1024)
    context = ("0123456789abcdef\t\n" * (20 * 1024 * 1024 // 18 + 1))[: 20 * 1024 * 1024]
    write_events([context])

    deliver_all(store)

    assert event_log.events()[0].event_context == context.encode()
    assert_delivered(event_log, committed=1)


def test_a_window_that_is_too_large_when_it_is_loaded_is_split_until_it_fits(
    store: Store, event_log: EventLog, settings: Settings, knobs: Knobs
) -> None:
    """Lean rows have no known size before they are loaded, and some texts grow when they are escaped."""
    # Given 40 users of 300 bytes and 4 events of 3000, and windows of at most 4000 bytes
    knobs(window_bytes=4000)
    create_users(40)
    write_events(["\\" * 1500] * 4)
    window = sealed()
    with pytest.raises(WindowTooLarge):
        load(window, environment="test", max_bytes=settings.TOWPATH.window_bytes)

    # When it is delivered, and its halves
    assert deliver(window, store) is Delivery.SPLIT
    outcomes = []
    while (part := claim_expired()) is not None:
        outcomes.append(deliver(part, store))

    # Then every row arrives once, in several windows
    assert_delivered(event_log, committed=44)
    assert len(event_log.window_sizes()) == outcomes.count(Delivery.ACKED) > 3


def test_a_written_window_is_not_split_by_a_lower_limit(store: Store, event_log: EventLog, knobs: Knobs) -> None:
    # Given a window that was written whole, whose ack was lost, and a limit that was lowered since
    create_users(40)
    window = sealed()
    write_without_ack(store, window)
    knobs(window_bytes=1024)

    # When it is picked up again
    expire_leases()
    recover(store, should_stop=lambda: False)
    expire_leases()
    recover(store, should_stop=lambda: False)

    assert_delivered(event_log, committed=40)


def test_a_replay_completes_a_window_of_which_the_store_has_lost_some_rows(store: Store, event_log: EventLog) -> None:
    # Given a window that was written, of which the store remembers the token, but only some of the rows
    create_users(100)
    window = sealed()
    write_without_ack(store, window)
    event_log.delete_where("outbox_id % 3 = 0")
    assert event_log.count() < 100

    deliver(taken_over(window), store)

    assert_delivered(event_log, committed=100)


def test_a_zombie_that_writes_after_it_was_taken_over_stores_nothing_twice(store: Store, event_log: EventLog) -> None:
    # Given an owner that had loaded its window when it was taken over, and the window written by the new owner
    create_users(100)
    zombie = sealed()
    loaded = load(zombie, environment="test", max_bytes=None)
    assert deliver(taken_over(zombie), store) is Delivery.ACKED

    # When its insert arrives at last
    store.write(loaded.rows, row_count=loaded.row_count, token=str(zombie.id))

    assert_delivered(event_log, committed=100)


def test_a_store_that_is_down_keeps_everything_in_the_ledger(event_log: EventLog) -> None:
    ids = create_users(10)
    down = connect("clickhouse://127.0.0.1:1/default", timeout_seconds=1)

    assert deliver(sealed(), down) is Delivery.POSTPONED

    assert undelivered() == {"outbox_user": len(ids), "batches": 1, "open windows": 1}
    assert Window.objects.get().failed_at is not None
    assert event_log.count() == 0


def test_an_unknown_outcome_keeps_the_lease_until_it_ends(store: Store, event_log: EventLog) -> None:
    # Given a window whose answer was lost
    create_users(10)
    write_without_ack(store, sealed())
    assert claim_expired() is None
    assert "connection cut" in Window.objects.get().last_error

    # When its lease has run out and somebody takes it up
    expire_leases()
    recover(store, should_stop=lambda: False)

    assert_delivered(event_log, committed=10)


def test_a_missing_table_loses_nothing(store: Store, event_log: EventLog) -> None:
    create_users(10)
    window = sealed()
    event_log.rename_table("event_log", "event_log_away")
    try:
        assert deliver(window, store) is Delivery.POSTPONED
        with pytest.raises(StoreUnavailable):
            store.read_back(window.id)
    finally:
        event_log.rename_table("event_log_away", "event_log")
    deliver(taken_over(window), store)

    assert_delivered(event_log, committed=10)


def test_a_row_that_vanished_from_its_outbox_does_not_stop_its_window(store: Store, event_log: EventLog) -> None:
    create_users(10)
    window = sealed()
    OutboxUser.objects.filter(id=OutboxUser.objects.order_by("id")[0].id).delete()

    assert deliver(window, store) is Delivery.ACKED

    assert_delivered(event_log, committed=9)
    assert Window.objects.get().delivered == {"outbox_user": 9}


def test_rows_that_vanished_from_their_outbox_are_counted_and_stay_in_the_receipt(store: Store) -> None:
    # Given windows of which somebody has deleted rows: one that is delivered immediately, one at its second attempt
    counted = Counted()
    create_users(10)
    window = sealed()
    OutboxUser.objects.filter(id__in=OutboxUser.objects.order_by("id").values("id")[:3]).delete()
    write_events(["{}"] * 3)
    late = sealed()
    OutboxEvent.objects.filter(id__in=OutboxEvent.objects.order_by("id").values("id")[:2]).delete()

    with capture_logs() as logs:
        assert deliver(window, store) is Delivery.ACKED
        write_without_ack(store, late)
        assert deliver(taken_over(late), store) is Delivery.ACKED

    errors = [(line["outbox"], line["vanished"]) for line in logs if line["event"] == "rows_vanished"]
    assert errors == [("outbox_user", 3), ("outbox_event", 2)]
    assert counted.of("towpath_vanished_rows_total", outbox="outbox_user") == 3
    assert counted.of("towpath_vanished_rows_total", outbox="outbox_event") == 2
    assert list(Window.objects.order_by("sealed_at").values_list("rows", "vanished")) == [
        ({"outbox_user": 10}, {"outbox_user": 3}),
        ({"outbox_event": 3}, {"outbox_event": 2}),
    ]


def test_an_owner_that_comes_too_late_finds_no_rows_missing(store: Store) -> None:
    create_users(10)
    window = sealed()
    assert deliver(taken_over(window), store) is Delivery.ACKED

    assert deliver(window, store) is Delivery.LEASE_LOST

    assert Window.objects.get().vanished is None


def test_recovery_seals_and_delivers_what_no_aggregator_has(store: Store, event_log: EventLog, knobs: Knobs) -> None:
    # Given batches whose messages were lost, some of them long enough ago
    knobs(window_rows=1000)
    create_users(1700)
    dispatched(batch_ids=300)
    age_batches()
    create_users(5, prefix="young")
    dispatched()

    windows = recover(store, should_stop=lambda: False)

    # Then the old ones are delivered, in windows of at most WINDOW_ROWS, and the young ones are left to the aggregators
    assert windows == 2
    assert event_log.window_sizes() == [900, 800]
    assert undelivered() == {"outbox_user": 5, "batches": 1}


def test_recovery_stops_between_two_windows_when_it_is_told_to(store: Store) -> None:
    create_users(10)
    dispatched()
    age_batches()

    assert recover(store, should_stop=lambda: True) == 0
    assert undelivered() == {"outbox_user": 10, "batches": 1}


def test_recovery_seals_no_more_while_the_store_leaves_so_many_windows_waiting(
    event_log: EventLog, store: Store, knobs: Knobs
) -> None:
    # Given a store that is down, and overdue batches, as they come all the time
    knobs(max_open_windows=3)
    down = connect("clickhouse://127.0.0.1:1/default", timeout_seconds=5)
    for number in range(6):
        create_users(10, prefix=f"n{number}")
        dispatched()
        age_batches()

        recover(down, should_stop=lambda: False)

    # Then the number of windows is bounded, and the rest waits as batches until the store is back
    assert undelivered() == {"outbox_user": 60, "batches": 6, "open windows": 3}
    expire_leases()
    recover(store, should_stop=lambda: False)
    recover(store, should_stop=lambda: False)
    assert_delivered(event_log, committed=60)


def test_the_written_time_is_the_store_s(store: Store, event_log: EventLog) -> None:
    create_users(1)
    before = store.now()

    deliver_all(store)

    assert before - timedelta(seconds=1) <= event_log.written_at() <= store.now() + timedelta(seconds=1)


def test_migrating_the_event_log_again_changes_nothing(store: Store) -> None:
    assert list(schema.migrate(store)) == []
    assert list(store.problems()) == []
