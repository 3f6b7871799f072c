"""Dead letters in the ledger: which rows the event store refuses, since when and why. The rows stay in their outbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from towpath import driver

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Letter:
    """One row that the event store refuses, its `error`, and the window that it came in."""

    id: int
    outbox: str
    row_id: int
    error: str
    window_id: UUID
    at: datetime


def count_newest(outbox: str, *, seconds: float) -> int:
    """Return how many rows of the outbox became dead letters within that time."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(*) FROM pipeline_deadletter
            WHERE outbox = %(outbox)s AND at > now() - make_interval(secs => %(seconds)s)
            """,
            {"outbox": outbox, "seconds": seconds},
        )
        return int(cursor.fetchone()[0])


def read(ids: Sequence[int] | None) -> list[Letter]:
    """Return the dead letters with these numbers, or all."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT id, outbox, row_id, error, window_id, at FROM pipeline_deadletter
            WHERE %(ids)s::bigint[] IS NULL OR id = ANY(%(ids)s) ORDER BY id
            """,
            {"ids": None if ids is None else list(ids)},
        )
        return [Letter(*row) for row in cursor.fetchall()]


def find_newest(*, outbox: str, error: str, before: int | None, limit: int | None) -> list[Letter]:
    """Return the newest dead letters of an outbox (empty: of all) whose error contains this text, below `before`."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT id, outbox, row_id, error, window_id, at FROM pipeline_deadletter
            WHERE (%(outbox)s = '' OR outbox = %(outbox)s) AND position(lower(%(error)s) IN lower(error)) > 0
              AND (%(before)s::bigint IS NULL OR id < %(before)s)
            ORDER BY id DESC LIMIT %(limit)s
            """,
            {"outbox": outbox, "error": error, "before": before, "limit": limit},
        )
        return [Letter(*row) for row in cursor.fetchall()]


def take(ids: Sequence[int]) -> list[Letter]:
    """Delete the dead letters with these numbers. Returns those that still existed; the caller alone has them.

    If another transaction is taking one, this waits for it, and returns the letter only if that one is rolled back.
    They are locked in the order of their numbers, so two that take the same ones do not wait for each other.
    """
    with driver.cursor() as cursor:
        cursor.execute(
            """
            WITH locked AS MATERIALIZED (
                SELECT id FROM pipeline_deadletter WHERE id = ANY(%(ids)s) ORDER BY id FOR UPDATE
            )
            DELETE FROM pipeline_deadletter AS d USING locked WHERE d.id = locked.id
            RETURNING d.id, d.outbox, d.row_id, d.error, d.window_id, d.at
            """,
            {"ids": list(ids)},
        )
        return sorted((Letter(*row) for row in cursor.fetchall()), key=lambda letter: letter.id)


def find_dead(outbox: str, row_ids: Sequence[int]) -> set[int]:
    """Return which of these rows of an outbox are dead letters, under any number."""
    with driver.cursor() as cursor:
        cursor.execute(
            "SELECT row_id FROM pipeline_deadletter WHERE outbox = %(outbox)s AND row_id = ANY(%(rows)s)",
            {"outbox": outbox, "rows": list(row_ids)},
        )
        return {row_id for (row_id,) in cursor.fetchall()}


# --- What people and probes ask ----------------------------------------------------------------------------------


def count_dead_letters() -> dict[str, int]:
    """Return how many dead letters each outbox has; outboxes without any are absent."""
    with driver.cursor() as cursor:
        cursor.execute("SELECT outbox, count(*) FROM pipeline_deadletter GROUP BY outbox")
        return dict(cursor.fetchall())


def largest_dead_ids() -> dict[str, int]:
    """Return the largest row id of a dead letter, by outbox."""
    with driver.cursor() as cursor:
        cursor.execute("SELECT outbox, max(row_id) FROM pipeline_deadletter GROUP BY outbox")
        return dict(cursor.fetchall())
