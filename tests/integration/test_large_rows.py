"""A row that is larger than a worker's memory may hold is a dead letter, and is never read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import connection, models

from backend.users.models import OutboxUser, User
from tests.integration.rows import create_users, undelivered, write_events
from tests.integration.windows import deliver, expire_leases, recover, sealed
from tests.poison import take_limits_away
from tests.unit.outboxes import Renamed, lean
from towpath.flow import load as loading
from towpath.flow.delivery import Delivery
from towpath.flow.load import load
from towpath.ledger.models import DeadLetter
from towpath.outbox import models as outbox_models
from towpath.outbox.models import MOST_ROW_BYTES, OutboxEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.event_log import EventLog
    from tests.knobs import Knobs
    from towpath.eventlog.store import EventStore


def write_large(megabytes: int) -> int:
    """A row as plain SQL could write one before its table had limits."""
    take_limits_away()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version)"
            " SELECT 'large', now(), repeat('x', %s), 1 RETURNING id",
            [megabytes * 1024 * 1024],
        )
        return int(cursor.fetchone()[0])


def deliver_all(store: EventStore) -> None:
    while recover(store, should_stop=lambda: False):
        expire_leases()


@pytest.mark.parametrize("others", [0, 3])
def test_a_row_of_450_mebibytes_is_a_dead_letter_and_the_others_are_stored(
    others: int, store: EventStore, event_log: EventLog
) -> None:
    large = write_large(450)
    write_events(["{}"] * others)

    window = sealed()
    assert len(load(window, environment="test", max_bytes=None).rows) < 1000
    expire_leases()
    deliver_all(store)

    assert event_log.count() == others
    (letter,) = DeadLetter.objects.all()
    assert (letter.outbox, letter.row_id) == ("outbox_event", large)
    assert "larger than 67,108,864 bytes" in letter.error
    assert undelivered() == {"outbox_event": 1}


def test_a_row_of_the_largest_size_is_delivered(store: EventStore, event_log: EventLog) -> None:
    write_large(MOST_ROW_BYTES // 1024**2)
    sealed()
    expire_leases()

    deliver_all(store)

    assert event_log.count() == 1
    assert not DeadLetter.objects.exists()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Rows may have 600 bytes."""
    monkeypatch.setattr(outbox_models, "MOST_ROW_BYTES", 600)
    monkeypatch.setattr(loading, "MOST_ROW_BYTES", 600)
    loading._rows_sql_of_any_window.cache_clear()
    yield
    loading._rows_sql_of_any_window.cache_clear()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["x" * 150, "\x01" * 120], ids=["as it is", "longer in JSON"])
def test_what_a_lean_row_refers_to_counts_as_it_is_stored(name: str, store: EventStore, event_log: EventLog) -> None:
    create_users(3)
    User.objects.filter(email="user2@example.com").update(first_name=name, last_name="\N{SNOWMAN}" * 150)

    assert deliver(sealed(), store) is Delivery.ACKED

    large = OutboxUser.objects.get()
    assert large.user.first_name == name
    assert [letter.row_id for letter in DeadLetter.objects.all()] == [large.pk]
    assert event_log.count() == 2


@pytest.mark.usefixtures("small")
def test_a_window_that_was_begun_is_acked_without_a_row_that_has_grown_since(
    store: EventStore, event_log: EventLog, knobs: Knobs
) -> None:
    knobs(window_bytes=32 * 1024 * 1024)
    write_events(["{}"] * 2)
    window = sealed()
    loaded = load(window, environment="test", max_bytes=None)
    store.write(loaded.rows, row_count=2, token=str(window.id))
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE outbox_event SET event_context = repeat('x', 1000) WHERE id = (SELECT max(id) FROM outbox_event)"
        )
    expire_leases()

    recover(store, should_stop=lambda: False)

    assert event_log.count() == 2
    assert undelivered() == {}
    assert not DeadLetter.objects.exists()


def test_the_size_of_a_lean_row_is_that_of_its_texts() -> None:
    outbox = lean(event=Renamed)

    assert isinstance(outbox.payload_bytes(), models.Case)
    assert OutboxEvent.objects.values_list(OutboxEvent.payload_bytes()).count() == 0
