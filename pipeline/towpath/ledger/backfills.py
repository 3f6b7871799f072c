"""Backfills in the ledger: how far each has come. Its row changes only in the transaction that publishes a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from towpath import driver

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the backfill through an outbox has come. `position` is the key of the last row that was looked at."""

    position: str | None
    published: int
    #: Rows whose event was already in the outbox or in the event store.
    already_published: int
    finished_at: datetime | None


def begin(outbox: str, *, again: bool) -> Progress:
    """Begin, or continue where an earlier run stopped. `again` starts over."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO pipeline_backfill AS b (outbox, published, already_published, started_at)
            VALUES (%(outbox)s, 0, 0, clock_timestamp())
            ON CONFLICT (outbox) DO UPDATE
            SET position = NULL, published = 0, already_published = 0, started_at = clock_timestamp(),
                finished_at = NULL
            WHERE %(again)s
            """,
            {"outbox": outbox, "again": again},
        )
    return read(outbox)


def read(outbox: str) -> Progress:
    """Return how far a backfill has come that was begun."""
    with driver.cursor() as cursor:
        cursor.execute(
            """SELECT position, published, already_published, finished_at FROM pipeline_backfill
            WHERE outbox = %(outbox)s""",
            {"outbox": outbox},
        )
        return Progress(*cursor.fetchone())


def advance(outbox: str, *, after: Progress, to: str | None, published: int, already_published: int) -> bool:
    """Note in the caller's transaction that a page is done. Without a key to continue from (`to`), all pages are done.

    False if another run has done a page since then: this page must not be published again.
    """
    with driver.cursor() as cursor:
        # Another run waits here until the caller's transaction ends, and then sees that the row has changed.
        cursor.execute(
            """
            UPDATE pipeline_backfill
            SET position = coalesce(%(to)s, position), published = published + %(published)s,
                already_published = already_published + %(already)s,
                finished_at = CASE WHEN %(to)s::text IS NULL THEN clock_timestamp() END
            WHERE outbox = %(outbox)s AND position IS NOT DISTINCT FROM %(after)s AND finished_at IS NULL
            """,
            {
                "outbox": outbox,
                "after": after.position,
                "to": to,
                "published": published,
                "already": already_published,
            },
        )
        return bool(cursor.rowcount)
