"""The testing kit, within a test that is rolled back: what was published, and from dispatch to ack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import connection, transaction
from django.utils import timezone

from backend.users.use_cases import CreateUser, CreateUserRequest, UserCreated
from tests.integration.rows import create_users, undelivered, write_events
from tests.poison import take_limits_away
from towpath import Event, publish, publish_many
from towpath.ledger.models import Window
from towpath.outbox.context import bind
from towpath.outbox.models import OutboxEvent
from towpath.testing.published import Published

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.knobs import Knobs
    from towpath.testing.delivering import Deliver
    from towpath.testing.events import FoundEvent

ADA = {"email": "ada@example.com", "first_name": "Ada", "last_name": "Lovelace"}


class Paid(Event):
    amount: int


def amounts(events: Sequence[FoundEvent]) -> list[int]:
    return [event.context["amount"] for event in events]


def refused_events(count: int) -> list[OutboxEvent]:
    """Rows that no store takes: their version is not a natural number."""
    take_limits_away()
    row = {"event_type": "tested", "event_date_time": timezone.now(), "event_context": "{}", "metadata_version": -1}
    return OutboxEvent.objects.bulk_create(OutboxEvent(**row) for _ in range(count))


def test_events_of_all_outboxes_are_published(published: Published) -> None:
    published.none()

    with bind(actor="user:7"):
        publish(Paid(amount=1))
    CreateUser().execute(CreateUserRequest(**ADA))

    assert dict(published.one(Paid).bound) == {"actor": "user:7"}
    assert published.one(UserCreated, **ADA).outbox == "outbox_user"
    assert len(published.all()) == 2


def test_what_a_savepoint_took_back_was_not_published(published: Published) -> None:
    publish(Paid(amount=1))
    with transaction.atomic():
        publish(Paid(amount=2))
        transaction.set_rollback(True)

    assert amounts(published.all()) == [1]


def test_what_was_there_before_was_not_published_in_this_test(published: Published) -> None:
    publish(Paid(amount=1))
    since = Published()
    publish(Paid(amount=2))

    assert amounts(since.all()) == [2]
    assert amounts(published.all()) == [1, 2]


def test_a_test_with_the_kit_is_rolled_back(published: Published, deliver: Deliver) -> None:
    publish(Paid(amount=1))
    deliver()
    published.one(Paid)

    assert connection.in_atomic_block


def test_deliver_stores_the_events_and_acks_them(published: Published, deliver: Deliver) -> None:
    CreateUser().execute(CreateUserRequest(**ADA))
    with bind(actor="user:7"):
        publish(Paid(amount=1))

    stored = deliver()

    user = UserCreated(**ADA)
    assert stored.one(UserCreated, **ADA).event_context == user.model_dump_json()
    assert dict(stored.one(Paid, amount=1).bound) == {"actor": "user:7"}
    assert [(row.environment, row.outbox) for row in deliver.store.rows] == [
        ("test", "outbox_event"),
        ("test", "outbox_user"),
    ]
    # The rows are gone, the receipt is there, and what was published still was.
    assert undelivered() == {}
    (window,) = Window.objects.all()
    assert window.delivered == {"outbox_event": 1, "outbox_user": 1}
    assert [str(event) for event in published.all()] == [str(event) for event in stored.all()]


def test_deliver_can_be_called_again(published: Published, deliver: Deliver) -> None:
    publish(Paid(amount=1))
    assert amounts(deliver().all()) == [1]
    assert amounts(deliver().all()) == [1]

    with transaction.atomic():  # a savepoint: the same transaction, which the cursors have seen
        publish(Paid(amount=2))

    assert amounts(deliver().all()) == [1, 2]
    assert amounts(published.all()) == [1, 2]
    assert undelivered() == {}


def test_deliver_sees_its_own_transaction_also_while_nobody_else_writes(deliver: Deliver) -> None:
    """A snapshot shows its own transaction's id only below the highest id that has ended."""
    publish(Paid(amount=1))
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id() >= pg_snapshot_xmax(pg_current_snapshot())")
        assert cursor.fetchone() == (True,)

    assert amounts(deliver().all()) == [1]


def test_deliver_takes_any_number_of_events_of_any_size(deliver: Deliver, knobs: Knobs) -> None:
    knobs(batch_ids=3, window_rows=7, window_max_rows=7, window_bytes=1024, max_open_windows=1)
    create_users(40)
    publish_many(Paid(amount=amount) for amount in range(25))
    write_events([f'"{"x" * 2000}"', f'"{"y" * 2000}"'])

    stored = deliver()

    assert len(stored.find(UserCreated)) == 40
    assert sorted(amounts(stored.find(Paid))) == list(range(25))
    assert len(stored.all()) == 67
    assert undelivered() == {}
    assert Window.objects.count() > 9


def test_deliver_fails_with_the_reason_when_the_store_refuses_a_row(published: Published, deliver: Deliver) -> None:
    publish_many(Paid(amount=amount) for amount in range(20))
    refused = refused_events(1)[0].id

    with pytest.raises(AssertionError, match=rf"the event store refuses:\n  outbox_event {refused}: Cannot parse"):
        deliver()

    assert len(deliver.store.rows) == 20
    assert OutboxEvent.objects.count() == 1
    assert len(published.find(Paid)) == 20


def test_deliver_fails_with_the_reason_when_the_store_takes_nothing(deliver: Deliver) -> None:
    refused_events(20)

    with pytest.raises(
        AssertionError, match=r"does not take a window of 20 row\(s\): the event store accepted none of these"
    ):
        deliver()


@pytest.mark.django_db(transaction=True)
def test_the_kit_works_as_well_in_a_test_that_commits(published: Published, deliver: Deliver) -> None:
    assert not connection.in_atomic_block
    with transaction.atomic():
        publish(Paid(amount=1))

    assert amounts(deliver().all()) == [1]
    assert amounts(published.all()) == [1]
    assert undelivered() == {}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("max_rows", [2, 5000])
def test_the_kit_works_at_every_isolation_level(deliver: Deliver, knobs: Knobs, level: str, max_rows: int) -> None:
    """Above READ COMMITTED, a transaction keeps the snapshot of its first statement."""
    knobs(batch_ids=max_rows, window_rows=max_rows, window_max_rows=max_rows, max_open_windows=1)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        publish_many(Paid(amount=amount) for amount in range(7))
        CreateUser().execute(CreateUserRequest(**ADA))

        assert sorted(amounts(deliver().find(Paid))) == list(range(7))
        publish(Paid(amount=8))
        assert len(deliver().all()) == 9
        assert undelivered() == {}
        transaction.set_rollback(True)
