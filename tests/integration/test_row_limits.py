"""What a row of an outbox can never be is refused by its table for every program, and by publish() before that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from backend.users.models import OutboxUser
from tests.integration.rows import create_users
from tests.poison import give_limits_back, take_limits_away
from towpath import Event, publish
from towpath.outbox.errors import EventNotStorable
from towpath.outbox.models import OutboxEvent

_GOOD: dict[str, Any] = {
    "event_type": "tested",
    "event_date_time": "2026-01-01 00:00:00+00",
    "event_context": "{}",
    "metadata_version": 1,
}


class Tried(Event):
    n: int = 0


class FromTheFuture(Event):
    version = -1


def insert(**values: Any) -> None:
    row = {**_GOOD, **values}
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO outbox_event ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})", list(row.values())
        )


@pytest.mark.parametrize(
    "values",
    [
        {"event_date_time": "infinity"},
        {"event_date_time": "-infinity"},
        {"event_date_time": "1899-12-31 23:59:59.999999+00"},
        {"event_date_time": "2300-01-01 00:00:00+00"},
        {"event_date_time": "0044-03-15 12:00:00+00 BC"},
        {"metadata_version": -1},
        {"id": 0},
        {"id": -1},
        {"event_type": None},
        {"event_date_time": None},
        {"event_context": None},
        {"metadata_version": None},
        {"xid": None},
    ],
    ids=str,
)
def test_a_row_that_no_event_store_takes_is_refused_by_its_table(values: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        insert(**values)

    assert OutboxEvent.objects.count() == 0


@pytest.mark.parametrize(
    "values",
    [{"event_date_time": "1900-01-01 00:00:00+00"}, {"event_date_time": "2299-12-31 23:59:59.999999+00"}, {"id": 1}],
    ids=str,
)
def test_what_an_event_store_just_takes_is_taken(values: dict[str, Any]) -> None:
    insert(**values)

    assert OutboxEvent.objects.count() == 1


@pytest.mark.parametrize(
    ("context", "bound"),
    [("repeat('x', %s)", "NULL"), ("'{}'", "jsonb_build_object('actor', repeat('x', %s))")],
    ids=["event_context", "bound"],
)
def test_a_payload_of_more_than_64_mebibytes_is_refused_by_its_table(context: str, bound: str) -> None:
    sql = (
        "INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version, bound)"
        f" SELECT 'tested', now(), {context}, 1, {bound}"
    )
    with transaction.atomic(), connection.cursor() as cursor, pytest.raises(IntegrityError, match="limits"):
        cursor.execute(sql, [64 * 1024 * 1024 + 1])


def test_a_lean_outbox_has_the_limits_that_sql_can_say() -> None:
    create_users(1)
    with pytest.raises(IntegrityError, match="limits"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("INSERT INTO outbox_user (id, user_id) SELECT -1, user_id FROM outbox_user")

    assert OutboxUser.objects.count() == 1


@pytest.mark.parametrize(
    ("event", "at", "what"),
    [
        (Tried(), datetime(1899, 12, 31, 23, 59, tzinfo=UTC), "1900 to 2299"),
        (Tried(), datetime(2300, 1, 1, tzinfo=UTC), "1900 to 2299"),
        (Tried(), datetime.max.replace(tzinfo=UTC), "1900 to 2299"),
        (Tried(), datetime.min.replace(tzinfo=UTC), "1900 to 2299"),
        (FromTheFuture(), None, "version -1 is not in the range 0 to "),
    ],
    ids=str,
)
def test_publish_refuses_it_before_the_row_is_written(event: Event, at: datetime | None, what: str) -> None:
    with transaction.atomic():
        publish(Tried(n=1), at=datetime(2300, 1, 1, tzinfo=UTC) - timedelta(microseconds=1))
        with pytest.raises(EventNotStorable, match=what):
            publish(event, at=at)
        publish(Tried(n=2))

    assert OutboxEvent.objects.count() == 2


def test_the_limits_come_to_a_table_whose_rows_they_would_refuse() -> None:
    """A migration that failed on a row of the past would stop a deployment."""
    take_limits_away()
    insert(event_date_time="infinity")

    give_limits_back()

    assert OutboxEvent.objects.count() == 1
    with pytest.raises(IntegrityError):
        insert(event_date_time="infinity")
