"""Outbox rows for tests: written in bulk, and looked at in the tables themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import connection

from tests.poison import take_limits_away

if TYPE_CHECKING:
    from collections.abc import Sequence


def create_users(count: int, *, prefix: str = "user") -> list[int]:
    """`count` users and their events with one statement, as a bulk import does; the ids of the outbox rows."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
WITH new AS (
    INSERT INTO users (password, is_superuser, email, first_name, last_name, created_at, updated_at,
                       is_active, is_staff)
    SELECT '!', false, %s || n || '@example.com', 'First ' || n, 'Last', clock_timestamp(), clock_timestamp(),
           true, false
    FROM generate_series(1, %s) AS n RETURNING id
)
INSERT INTO outbox_user (user_id) SELECT id FROM new ORDER BY id RETURNING id
""",
            [prefix, count],
        )
        return [id_ for (id_,) in cursor.fetchall()]


def write_events(contexts: Sequence[str], *, at: str = "2026-03-04 05:06:07.123456+00") -> list[int]:
    """A row of `outbox_event` for each context, in one transaction; their ids in the same order.

    At `infinity` they are such as no event store takes.
    """
    if at == "infinity":
        take_limits_away()
    with connection.cursor() as cursor:
        cursor.execute(
            """
INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version)
SELECT 'tested', %s::timestamptz, context, 1 FROM unnest(%s::text[]) WITH ORDINALITY AS t (context, n) ORDER BY n
RETURNING id
""",
            [at, list(contexts)],
        )
        return [id_ for (id_,) in cursor.fetchall()]


def undelivered() -> dict[str, int]:
    """Rows in the outboxes and in the ledger that are still on their way; empty when all is delivered."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
SELECT name, n FROM (
    SELECT 'outbox_user' AS name, count(*) AS n FROM outbox_user
    UNION ALL SELECT 'outbox_user_change', count(*) FROM outbox_user_change
    UNION ALL SELECT 'outbox_event', count(*) FROM outbox_event
    UNION ALL SELECT 'batches', count(*) FROM pipeline_batch
    UNION ALL SELECT 'open windows', count(*) FROM pipeline_window WHERE acked_at IS NULL
) AS counts WHERE n > 0
"""
        )
        return dict(cursor.fetchall())


def execute(*statements: str) -> None:
    """What somebody does to the database by hand."""
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def ids_in_batches(outbox: str) -> list[int]:
    """Every id that some batch holds, sorted, as often as batches hold it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT unnest(ids) AS id FROM pipeline_batch WHERE outbox = %s ORDER BY id", [outbox])
        return [id_ for (id_,) in cursor.fetchall()]
