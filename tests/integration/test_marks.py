"""No window, batch or receipt is missed because a look begins at a mark."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg2
import pytest
from django.db import OperationalError, connection, transaction

from tests.integration.rows import create_users
from tests.integration.windows import deliver, dispatched, expire_leases, recover, seal, sealed
from towpath.flow.verify import purge_receipts, verify_receipts
from towpath.ledger import batches, marks
from towpath.ledger.models import Batch, Mark, Window
from towpath.ledger.open_windows import read_open_windows
from towpath.ledger.stuck import move_marks_and_look
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services import Services
    from towpath.eventlog.store import Store

    Raw = psycopg2.extensions.connection


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:  # noqa: ARG001 - everything is empty
    """What three others have passed is late."""
    monkeypatch.setattr(marks, "PASSED", 3)


@pytest.fixture
def other(services: Services) -> Iterator[Raw]:
    """A session of somebody else."""
    with closing(psycopg2.connect(services.postgres.url)) as raw:
        yield raw


def move() -> None:
    move_marks_and_look(list(all_outboxes()), unsealed_seconds=30)


def value(mark: str) -> int:
    newest = Mark.objects.filter(name=mark).order_by("-version").first()
    return 0 if newest is None else newest.value


def rows(sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        found: list[tuple[Any, ...]] = cursor.fetchall()
    return found


def open_windows() -> int:
    return read_open_windows(outboxes=(), slow_seconds=10, unclaimed_seconds=10).total


def deliver_windows(count: int, store: Store) -> None:
    for _ in range(count):
        create_users(1, prefix=f"{uuid4()}-")
        deliver(sealed(), store)


def test_what_is_delivered_is_below_the_marks_and_is_read_no_more(store: Store) -> None:
    deliver_windows(5, store)
    (last_number,), (last_batch,) = rows(
        "SELECT max(number) FROM pipeline_window UNION ALL SELECT last_value FROM pipeline_batch_id_seq"
    )

    move()
    verify_receipts(store, should_stop=lambda: False)

    assert (value("windows"), value("batches"), value("verified")) == (last_number + 1, last_batch + 1, last_number + 1)
    # And a mark that stays where it is is not written again
    before = rows("SELECT * FROM pipeline_mark ORDER BY 1")
    move()
    verify_receipts(store, should_stop=lambda: False)
    assert rows("SELECT * FROM pipeline_mark ORDER BY 1") == before


def test_no_mark_passes_a_row_whose_number_is_drawn_and_that_is_not_committed_yet(store: Store, other: Raw) -> None:
    # Given a transaction that has inserted a batch and a window, while others are delivered
    with other.cursor() as cursor:
        cursor.execute(marks.INSERTING_WINDOWS + marks.INSERTING_BATCHES)
        cursor.execute(
            "INSERT INTO pipeline_batch (outbox, ids, rows, bytes, dispatched_at)"
            " VALUES ('outbox_user', '{}', 0, 0, now());"
            "INSERT INTO pipeline_window (id, lease_token, lease_until, attempts, rows, bytes, sealed_at,"
            " dispatched_from, dispatched_to) SELECT gen_random_uuid(), gen_random_uuid(), t, 1, '{}', 0, t, t, t"
            " FROM (SELECT clock_timestamp() AS t) AS now"
        )
    deliver_windows(3, store)

    # When the marks are to be moved, then nobody waits, and they stay where they are
    move()
    assert not Mark.objects.filter(name__in=["windows", "batches"]).exists()

    # And when it commits, both are found, before and after the marks are moved
    other.commit()
    for _ in range(2):
        assert (open_windows(), batches.count_batches().total) == (1, 1)
        move()
    assert value("windows") == Window.objects.get(acked_at=None).number
    assert value("batches") == Batch.objects.get().id


def test_whoever_inserts_waits_for_a_mark_that_is_being_moved(other: Raw) -> None:
    create_users(1)
    batch_ids = dispatched()
    with other.cursor() as cursor:
        cursor.execute(marks.INSERTING_WINDOWS.replace("_shared", ""))
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '50ms'")
        with pytest.raises(OperationalError, match="lock timeout"):
            seal(batch_ids)
        transaction.set_rollback(True)

    other.rollback()
    assert seal(batch_ids) is not None


def test_what_others_pass_is_late_and_found_all_the_same(store: Store) -> None:
    # Given a window that nobody delivers, and a batch that nobody seals
    create_users(1, prefix="stuck")
    window = sealed()
    create_users(1, prefix="left")
    (batch,) = dispatched()

    deliver_windows(12, store)
    move()

    assert Window.objects.get(id=window.id).is_late
    assert Batch.objects.get(id=batch).is_late
    move()
    assert value("windows") > Window.objects.get(id=window.id).number
    assert value("batches") > batch

    # Then they are counted as before
    assert open_windows() == 1
    assert batches.count_batches().unsealed == 1
    assert sum(batches.in_flight(list(all_outboxes())).new.values()) == 2

    # And recovered, and the receipts verified
    expire_leases()
    rows_of_batch = Batch.objects.filter(id=batch)
    rows_of_batch.update(dispatched_at=datetime.now(UTC) - timedelta(hours=1))
    assert recover(store, should_stop=lambda: False) == 2
    assert (open_windows(), batches.count_batches().total) == (0, 0)
    assert verify_receipts(store, should_stop=lambda: False) == 0
    assert not Window.objects.filter(verified_at=None).exists()
    assert not Window.objects.filter(is_late=True).exists()


def test_a_window_that_is_acked_behind_later_ones_is_verified(store: Store) -> None:
    create_users(1, prefix="slow")
    slow = sealed()
    deliver_windows(2, store)
    verify_receipts(store, should_stop=lambda: False)
    move()

    deliver(slow, store)
    deliver_windows(1, store)
    move()
    verify_receipts(store, should_stop=lambda: False)

    assert not Window.objects.filter(verified_at=None).exists()


def test_a_contradicted_receipt_is_looked_at_again_wherever_the_mark_is(store: Store) -> None:
    deliver_windows(3, store)
    Window.objects.filter(number=min(Window.objects.values_list("number", flat=True))).update(
        delivered={"outbox_user": 2}, rows={"outbox_user": 2}
    )
    assert verify_receipts(store, should_stop=lambda: False) == 1
    deliver_windows(8, store)
    move()
    verify_receipts(store, should_stop=lambda: False)
    wrong = Window.objects.get(verified_at=None)
    assert value("verified") > wrong.number

    assert verify_receipts(store, should_stop=lambda: False) == 1
    Window.objects.filter(id=wrong.id).update(delivered={"outbox_user": 1}, rows={"outbox_user": 1})
    assert verify_receipts(store, should_stop=lambda: False) == 0
    assert not Window.objects.filter(verified_at=None).exists()


@pytest.mark.parametrize("numbers", ["pipeline_window, number", "pipeline_batch, id"])
def test_numbers_that_begin_anew_are_found(store: Store, numbers: str) -> None:
    """A copy of the database without its sequences was put into service, as after logical replication."""
    deliver_windows(5, store)
    move()
    verify_receipts(store, should_stop=lambda: False)
    table, column = numbers.split(", ")
    rows("DELETE FROM pipeline_window RETURNING 1")
    rows(f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), 1, false)")

    create_users(2)
    sealed(batch_ids=1)
    create_users(1, prefix="other")
    dispatched()
    for _ in range(2):
        move()

    assert (open_windows(), batches.count_batches().total) == (1, 3)
    deliver_windows(1, store)
    verify_receipts(store, should_stop=lambda: False)
    assert Window.objects.exclude(verified_at=None).exists()


def test_a_role_that_may_not_read_the_sequences_misses_nothing(store: Store, services: Services) -> None:
    deliver_windows(5, store)
    create_users(1, prefix="open")
    sealed()
    with closing(psycopg2.connect(services.postgres.superuser_url)) as administrator:
        administrator.autocommit = True
        with administrator.cursor() as cursor:
            cursor.execute(
                "CREATE ROLE no_sequences; GRANT SELECT, INSERT, UPDATE, DELETE ON pipeline_window, pipeline_batch,"
                " pipeline_mark TO no_sequences; GRANT no_sequences TO towpath"
            )
            try:
                with connection.cursor() as own:
                    own.execute("SET ROLE no_sequences")
                move()
                assert (open_windows(), batches.count_batches().total) == (1, 1)
                assert value("windows") == Window.objects.get(acked_at=None).number
            finally:
                connection.close()
                cursor.execute("DROP OWNED BY no_sequences; DROP ROLE no_sequences")


def test_a_receipt_that_is_verified_when_those_around_it_are_purged_is_purged_the_next_day(
    store: Store,
) -> None:
    deliver_windows(3, store)
    then = datetime.now(UTC) - timedelta(days=31)
    Window.objects.update(acked_at=then, dispatched_from=then, verified_at=then)
    late = Window.objects.order_by("number").first()
    assert late is not None
    Window.objects.filter(id=late.id).update(verified_at=None, dispatched_from=then - timedelta(hours=1))
    assert purge_receipts(receipt_days=30, should_stop=lambda: False) == 2

    Window.objects.update(verified_at=then)
    assert purge_receipts(receipt_days=30, should_stop=lambda: False) == 0
    Mark.objects.filter(name="swept").update(value=value("swept") - 1)
    assert purge_receipts(receipt_days=30, should_stop=lambda: False) == 1
