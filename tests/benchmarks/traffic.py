"""What is published: rows by one statement, or at a steady rate. As the product's own INSERTs leave them."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING

from django.db import connection

if TYPE_CHECKING:
    from collections.abc import Callable

_numbers = itertools.count()


def publish_users(count: int) -> int:
    """`count` users and their outbox rows in one statement and transaction; the last outbox id."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
WITH new AS (
    INSERT INTO users (password, is_superuser, email, first_name, last_name, created_at, updated_at, is_active,
                       is_staff)
    SELECT '!', false, 'user' || %s || '-' || n || '@example.com', 'First ' || n, 'Last', clock_timestamp(),
           clock_timestamp(), true, false
    FROM generate_series(1, %s) AS n RETURNING id
), published AS (
    INSERT INTO outbox_user (user_id) SELECT id FROM new RETURNING id
)
SELECT max(id) FROM published
""",
            [next(_numbers), count],
        )
        return int(cursor.fetchone()[0])


def publish_backlog(count: int) -> None:
    """`publish_users`, and the statistics that a running system has of its tables.

    An ANALYZE that ran in the middle of the bulk INSERT has seen an empty table, and nothing would correct it before
    the end of a short run. What a wrong estimate costs is a figure of its own (`flat`).
    """
    publish_users(count)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE users, outbox_user")


def publish_events(count: int, *, table: str = "outbox_event", context_bytes: int = 80) -> None:
    """`count` rows of a frozen outbox in one statement. Contexts of a few random digits, which do not compress."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
INSERT INTO {table} (event_type, event_date_time, event_context, metadata_version)
SELECT 'bench', clock_timestamp(), '{{"text":"' || rpad(md5(n::text), %s, md5(n::text)) || '"}}', 1
FROM generate_series(1, %s) AS n
""",
            [context_bytes, count],
        )


def publish_in_pieces(count: int, *, context_bytes: int) -> None:
    """The same of any size: one statement over all rows would hold them in memory."""
    piece = max(1, (16 << 20) // context_bytes)
    for first in range(0, count, piece):
        publish_events(min(piece, count - first), context_bytes=context_bytes)


def steadily(publish: Callable[[int], object], *, per_second: float, seconds: float, step_seconds: float) -> int:
    """Call `publish` with a number of events each `step_seconds`, on a schedule that does not wait; events in all."""
    began = time.monotonic()
    published = 0
    for step in range(1, round(seconds / step_seconds) + 1):
        due = round(per_second * step * step_seconds) - published
        if due:
            publish(due)
            published += due
        time.sleep(max(0.0, began + step * step_seconds - time.monotonic()))
    return published


def in_thread(work: Callable[[], None]) -> threading.Thread:
    """`work` in a thread that gives its database connection back."""

    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
