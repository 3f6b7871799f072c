"""A window's life in the ledger: what is decided by one statement stays decided, no matter who else tries."""

from __future__ import annotations

import random
from functools import partial
from typing import cast

import pytest
from django.db import connection
from structlog.testing import capture_logs

from backend.users.models import OutboxUser
from tests.integration.rows import create_users, undelivered, write_events
from tests.integration.scraping import Counted
from tests.integration.threads import all_at_once
from tests.integration.windows import (
    claim_expired,
    deliver,
    dispatched,
    expire_leases,
    members,
    seal,
    sealed,
    taken_over,
)
from tests.knobs import Knobs
from towpath.errors import LeaseLost
from towpath.eventlog.errors import StoreUnavailable
from towpath.eventlog.store import EventStore
from towpath.flow.delivery import Delivery
from towpath.ledger.ack import ack
from towpath.ledger.models import Batch, DeadLetter, Window
from towpath.ledger.windows import RefusedRow, postpone, renew, split
from towpath.outbox.models import OutboxEvent


def test_a_sealed_window_knows_its_rows_by_outbox() -> None:
    create_users(30)
    write_events(["{}"] * 12)

    window = sealed(batch_ids=10)

    assert window.rows == {"outbox_event": 12, "outbox_user": 30}
    assert window.attempts == 1
    ledger = Window.objects.get()
    assert (ledger.id, ledger.rows, ledger.acked_at) == (window.id, window.rows, None)
    assert ledger.dispatched_from <= ledger.dispatched_to <= ledger.sealed_at


def test_a_batch_is_sealed_only_once() -> None:
    create_users(3)
    batches = dispatched(batch_ids=1)

    first, second = seal(batches[:2]), seal(batches)

    assert first is not None
    assert second is not None
    assert (first.row_count, second.row_count) == (2, 1)
    assert seal(batches) is None
    assert seal([]) is None
    assert seal([max(batches) + 1000]) is None


def test_many_that_seal_overlapping_batches_in_different_orders_put_each_into_one_window() -> None:
    # Given a hundred batches, and sealers that each want a random half of them, in random order, again and again
    ids = create_users(200)
    batches = dispatched(batch_ids=2)

    def seal_some(seed: int) -> list[int]:
        chance = random.Random(seed)
        windows = [seal(chance.sample(batches, 20)) for _ in range(15)]
        return [window.row_count for window in windows if window is not None]

    # When they all do, and a last one takes what is left
    sealed_rows = all_at_once([partial(seal_some, seed) for seed in range(12)])
    last = seal(batches)

    # Then nobody has deadlocked, no window counts a row that is not its own, and each row is in one
    total = sum(sum(rows) for rows in sealed_rows) + (last.row_count if last else 0)
    assert total == len(ids)
    assert sorted(row for rows in members().values() for row in rows) == [("outbox_user", id_) for id_ in sorted(ids)]


def test_an_ack_deletes_the_window_s_rows_and_leaves_its_receipt() -> None:
    # Given a window, and rows that are not in it
    create_users(5)
    write_events(["{}"] * 2)
    window = sealed()
    others = create_users(3, prefix="other")

    ack(window, delivered=window.rows)

    assert sorted(OutboxUser.objects.values_list("id", flat=True)) == sorted(others)
    assert not OutboxEvent.objects.exists()
    assert not Batch.objects.exists()
    receipt = Window.objects.get()
    assert receipt.acked_at is not None
    assert receipt.delivered == {"outbox_event": 2, "outbox_user": 5}


def test_the_ack_of_an_owner_that_has_lost_its_lease_deletes_nothing() -> None:
    # Given a window that was taken over
    create_users(5)
    zombie = sealed()
    owner = taken_over(zombie)

    # When the old owner acks, also later when the new one has
    with pytest.raises(LeaseLost):
        ack(zombie, delivered=zombie.rows)
    assert undelivered() == {"outbox_user": 5, "batches": 1, "open windows": 1}

    ack(owner, delivered=owner.rows)
    with pytest.raises(LeaseLost):
        ack(zombie, delivered={})
    with pytest.raises(LeaseLost):
        ack(owner, delivered={})

    # Then the receipt is that of the new one
    assert undelivered() == {}
    assert Window.objects.get().delivered == {"outbox_user": 5}


def test_a_late_owner_neither_renews_nor_gives_back_nor_splits_what_was_taken_over() -> None:
    create_users(5)
    zombie = sealed()
    owner = taken_over(zombie)
    expire_leases()

    renew([zombie])
    with pytest.raises(LeaseLost):
        postpone(zombie, error="from the zombie", pause_seconds=1, is_isolated=True)
    with pytest.raises(LeaseLost):
        split(zombie)

    ledger = Window.objects.get()
    assert (ledger.lease_token, ledger.failed_at) == (owner.lease_token, None)
    assert claim_expired() is not None, "the expired lease was prolonged by somebody who does not hold it"


def test_a_refused_row_stays_in_its_outbox_as_a_dead_letter() -> None:
    poison, *_ = create_users(5)
    window = sealed()

    ack(window, delivered={"outbox_user": 4}, refused=[RefusedRow("outbox_user", poison, "bad value")])

    assert list(OutboxUser.objects.values_list("id", flat=True)) == [poison]
    letter = DeadLetter.objects.get()
    assert (letter.outbox, letter.row_id, letter.error, letter.window_id) == (
        "outbox_user",
        poison,
        "bad value",
        window.id,
    )


def test_only_a_window_whose_lease_has_run_out_is_claimed() -> None:
    create_users(2)
    window = sealed()
    assert claim_expired() is None

    claimed = taken_over(window)

    assert (claimed.id, claimed.attempts, claimed.rows) == (window.id, 2, window.rows)
    assert claimed.lease_token != window.lease_token
    assert claim_expired() is None, "the new lease is not one"


def test_an_acked_window_is_never_claimed() -> None:
    create_users(2)
    window = sealed()
    ack(window, delivered=window.rows)
    expire_leases()

    assert claim_expired() is None


def test_a_renewed_lease_keeps_others_away() -> None:
    create_users(2)
    window = sealed()
    expire_leases()

    renew([window])

    assert claim_expired() is None


def test_many_that_claim_at_once_get_a_window_each() -> None:
    # Given ten windows whose leases have run out
    create_users(10)
    for batch in dispatched(batch_ids=1):
        seal([batch])
    expire_leases()

    # When thirty look for one
    claimed = all_at_once([claim_expired] * 30)

    # Then each window has one new owner (one that is just being claimed is passed over, and claimed by a later look)
    owners = [window.id for window in claimed if window is not None]
    while (window := claim_expired()) is not None:
        owners.append(window.id)
    assert len(owners) == len(set(owners)) == 10


def test_a_window_given_back_is_claimed_after_a_pause() -> None:
    create_users(2)
    window = sealed()
    postpone(window, error="store is down", pause_seconds=60)
    assert claim_expired() is None
    postpone(window, error="store is down", pause_seconds=0)
    assert claim_expired() is not None

    failed = Window.objects.get()
    assert (failed.last_error, failed.failed_at is None) == ("store is down", False)


@pytest.mark.parametrize("rows", [2, 3, 7, 100])
def test_a_split_keeps_every_id_exactly_once(rows: int) -> None:
    # Given a window over two outboxes and several batches
    users = create_users(rows - rows // 3)
    events = write_events(["{}" * 10] * (rows // 3))
    window = sealed(batch_ids=4)
    before = members()[window.id]
    size = Window.objects.get().bytes

    # When it is split
    split(window)

    # Then its two halves hold the same rows, each once, and are free to be claimed
    after = members()
    assert sorted(row for half in after.values() for row in half) == before
    assert sorted(len(half) for half in after.values()) == [rows // 2, rows - rows // 2]
    assert window.id not in after
    assert Window.objects.filter(id=window.id).count() == 0
    halves = [claim_expired(), claim_expired()]
    assert sorted(half.row_count for half in halves if half) == [rows // 2, rows - rows // 2]
    assert {half.attempts for half in halves if half} == {1}
    assert sum(half.bytes for half in Window.objects.all()) == size
    assert len(users) + len(events) == rows


def test_a_window_can_be_split_down_to_single_rows() -> None:
    ids = create_users(11)
    split(sealed(batch_ids=3))

    while (window := claim_expired()) is not None:
        if window.row_count > 1:
            split(window)

    assert sorted(members().values()) == [[("outbox_user", id_)] for id_ in sorted(ids)]
    with connection.cursor() as cursor:
        cursor.execute("SELECT bool_and(rows = cardinality(ids)) FROM pipeline_batch")
        assert cursor.fetchone()[0]


def test_a_lease_lost_when_the_window_is_split_is_reported(knobs: Knobs) -> None:
    counted = Counted()
    create_users(40)
    zombie = sealed()
    taken_over(zombie)
    knobs(window_bytes=1024)

    with capture_logs() as logs:
        assert deliver(zombie, cast("EventStore", None)) is Delivery.LEASE_LOST  # it does not get to the store

    assert counted.of("towpath_leases_lost_total") == 1
    assert "window_lease_lost" in [line["event"] for line in logs]


def test_a_lease_lost_while_the_store_fails_is_reported_and_nothing_given_back() -> None:
    counted = Counted()
    create_users(2)
    zombie = sealed()

    class TakenOverMeanwhile:
        def write(self, *_: object, **__: object) -> None:
            taken_over(zombie)
            raise StoreUnavailable("away")

    assert deliver(zombie, cast("EventStore", TakenOverMeanwhile())) is Delivery.LEASE_LOST

    assert counted.of("towpath_leases_lost_total") == 1
    assert Window.objects.get().failed_at is None
