"""Receipts made by the test itself."""

from __future__ import annotations

from datetime import UTC, datetime

from django.db import connection

from tests.integration.rows import create_users, write_events
from tests.integration.windows import deliver, sealed
from towpath.eventlog.store import VerifiableStore
from towpath.flow.delivery import Delivery
from towpath.flow.verify import verify_receipts
from towpath.ledger.models import Window

LONG_AGO, NEVER = datetime(2020, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def delivered(store: VerifiableStore, *, users: int = 0, events: int = 0) -> Window:
    """The receipt of one window of so many rows."""
    create_users(users, prefix=f"verify{Window.objects.count()}-")
    write_events(["{}"] * events)
    window = sealed()
    assert deliver(window, store) is Delivery.ACKED
    return Window.objects.get(id=window.id)


def verified(store: VerifiableStore) -> int:
    return verify_receipts(store, should_stop=lambda: False)


def insert_receipts(count: int, *, age: str, verified: bool = False, error: str | None = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO pipeline_window (id, lease_token, lease_until, attempts, contradiction, is_late, rows, bytes,"
            " sealed_at, acked_at, verified_at, delivered, dispatched_from, dispatched_to)"
            " SELECT gen_random_uuid(), gen_random_uuid(), t, 1, %s, %s, '{}', 0, t, t, CASE WHEN %s THEN t END, '{}',"
            " t, t"
            " FROM (SELECT now() - %s::interval + n * interval '1 ms' AS t FROM generate_series(1, %s) AS n) AS times",
            [error, error is not None, verified, age, count],
        )
