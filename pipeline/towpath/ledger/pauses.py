"""Pauses of dispatch: rows of an outbox, or of all, wait where they are until somebody resumes.

A pause is a row that the dispatcher's look reads in the statement that looks for news: it costs no statement of its
own, and holds from the next look on. What is dispatched already is delivered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from towpath import driver

if TYPE_CHECKING:
    from datetime import datetime

#: In the place of an outbox's name: all of them.
EVERY_OUTBOX = ""

#: SQL, true if the outbox of `c` is paused. Of a handful of rows; OFFSET 0 keeps it from becoming a join.
IS_PAUSED = "EXISTS (SELECT FROM pipeline_pause AS p WHERE p.outbox IN ('', c.outbox) OFFSET 0)"


@dataclass(frozen=True, slots=True)
class Pause:
    """That dispatch of an outbox is paused, or of all: since when, by whom and why."""

    outbox: str
    paused_by: str
    reason: str
    paused_at: datetime
    seconds: float


def insert(outbox: str, *, by: str, reason: str) -> bool:
    """True if it was not paused before. Who paused first stays named."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO pipeline_pause (outbox, paused_by, reason, paused_at)
            VALUES (%(outbox)s, %(by)s, %(reason)s, statement_timestamp()) ON CONFLICT DO NOTHING
            """,
            {"outbox": outbox, "by": by, "reason": reason},
        )
        return bool(cursor.rowcount)


def delete(outbox: str) -> list[str]:
    """End the pause of an outbox, or of all and of each; which were paused."""
    with driver.cursor() as cursor:
        cursor.execute(
            "DELETE FROM pipeline_pause WHERE outbox = %(outbox)s OR %(outbox)s = '' RETURNING outbox",
            {"outbox": outbox},
        )
        return sorted(name for (name,) in cursor.fetchall())


def read_pauses() -> list[Pause]:
    """Every pause, that of all outboxes first."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT outbox, paused_by, reason, paused_at,
                   extract(epoch FROM statement_timestamp() - paused_at)::float8
            FROM pipeline_pause ORDER BY outbox
            """
        )
        return [Pause(*row) for row in cursor.fetchall()]
