"""Batches in the ledger, from dispatch to ack: each has the ids of one message. The message itself is only a hint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from towpath import driver
from towpath.ledger.marks import INDEX_PROBES_ONLY, INSERTING_BATCHES, value_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID


#: The existing batches, as a table. Those left behind are few; all others are above the mark.
BATCHES = f"""(
    SELECT * FROM pipeline_batch WHERE id >= {value_of("batches")} AND NOT is_late
    UNION ALL
    SELECT * FROM pipeline_batch WHERE is_late
)"""

#: How many late batches an aggregator takes from the ledger at a time.
_LATE_BATCHES = 100


@dataclass(frozen=True, slots=True)
class BatchMessage:
    """What the message of a batch carries. `bytes` is the payloads' size if the outbox knows it, otherwise 0.

    `is_backlog` is false for new rows that a look of the dispatcher could take whole: they may overtake. It is true for
    the pages of a backlog, and for rows that come back (replays).
    """

    id: int
    outbox: str
    ids: list[int]
    bytes: int
    is_backlog: bool = True


@dataclass(frozen=True, slots=True)
class UnsealedBatch:
    """A batch that is in no window."""

    id: int
    rows: int
    payload_bytes: int
    is_backlog: bool = True


@dataclass(frozen=True, slots=True)
class InFlight:
    """The number of rows in batches: of backlogs, and new ones by outbox."""

    backlog: int
    new: Mapping[str, int]


def count_in_flight(outbox: str, ids: Sequence[int]) -> int:
    """Return how many of these rows of an outbox are in a batch."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT count(*) FROM unnest(%(ids)s::bigint[]) AS id
            WHERE id IN (SELECT unnest(ids) FROM {BATCHES} AS b WHERE outbox = %(outbox)s)
            """,
            {"outbox": outbox, "ids": list(ids)},
        )
        return int(cursor.fetchone()[0])


def in_flight(outboxes: Sequence[str]) -> InFlight:
    """Count the rows of the outboxes that are in batches."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT outbox, is_backlog, sum(rows)::bigint FROM {BATCHES} AS b
            WHERE outbox = ANY(%(outboxes)s) GROUP BY outbox, is_backlog
            """,
            {"outboxes": list(outboxes)},
        )
        found = cursor.fetchall()
    return InFlight(
        backlog=sum(rows for _, is_backlog, rows in found if is_backlog),
        new={outbox: rows for outbox, is_backlog, rows in found if not is_backlog},
    )


def insert(outbox: str, ids: Sequence[int]) -> BatchMessage:
    """Make a batch of these ids, as the dispatcher would; the size of its payloads is unknown."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INSERTING_BATCHES}
            INSERT INTO pipeline_batch (outbox, ids, rows, bytes, dispatched_at)
            VALUES (%(outbox)s, %(ids)s, %(rows)s, 0, clock_timestamp()) RETURNING id
            """,
            {"outbox": outbox, "ids": list(ids), "rows": len(ids)},
        )
        (batch,) = cursor.fetchone()
    return BatchMessage(batch, outbox, list(ids), 0)


def overdue(outboxes: Sequence[str], *, seconds: float, limit: int) -> list[UnsealedBatch]:
    """Return the batches of the outboxes that have been unsealed for that long, oldest first."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT id, rows, bytes FROM {BATCHES} AS b
            WHERE window_id IS NULL AND outbox = ANY(%(outboxes)s)
              AND dispatched_at < statement_timestamp() - make_interval(secs => %(seconds)s)
            ORDER BY dispatched_at LIMIT %(limit)s
            """,
            {"outboxes": list(outboxes), "seconds": seconds, "limit": limit},
        )
        return [UnsealedBatch(*row) for row in cursor.fetchall()]


def unsealed(
    batch_ids: Sequence[int], *, outboxes: Sequence[str], late_seconds: float | None
) -> dict[int, UnsealedBatch]:
    """Return, by number, those of the batches that belong to these outboxes and are in no window yet. With
    `late_seconds`, also others that were dispatched that long ago: the oldest, as many as make a few windows."""
    late = f"""
            UNION (
                SELECT id, rows, bytes, is_backlog FROM {BATCHES} AS b
                WHERE window_id IS NULL AND outbox = ANY(%(outboxes)s)
                  AND dispatched_at < statement_timestamp() - make_interval(secs => %(late)s)
                ORDER BY dispatched_at LIMIT %(limit)s
            )
    """
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT id, rows, bytes, is_backlog FROM pipeline_batch
            WHERE id = ANY(%(batches)s) AND window_id IS NULL AND outbox = ANY(%(outboxes)s)
            {"" if late_seconds is None else late}
            """,
            {"batches": list(batch_ids), "outboxes": list(outboxes), "late": late_seconds, "limit": _LATE_BATCHES},
        )
        return {batch: UnsealedBatch(batch, *more) for batch, *more in cursor.fetchall()}


def ids_in_window(window: UUID, outbox: str) -> list[int]:
    """Return the ids of one outbox in a window."""
    with driver.cursor() as cursor:
        cursor.execute(
            "SELECT unnest(ids) FROM pipeline_batch WHERE window_id = %(window)s AND outbox = %(outbox)s",
            {"window": window, "outbox": outbox},
        )
        return [id_ for (id_,) in cursor.fetchall()]


#: The same, as an array in another statement. The parameters are the window and the outbox.
IDS_IN_WINDOW = "ARRAY(SELECT unnest(ids) FROM pipeline_batch WHERE window_id = %s AND outbox = %s)"


def first_ids(window: UUID, *, batches: int, ids_of_each: int) -> list[BatchMessage]:
    """Return the first `batches` batches of a window, each with its first `ids` ids."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT id, outbox, ids[1:%(ids)s], bytes FROM (
                SELECT * FROM pipeline_batch WHERE window_id = %(window)s OFFSET 0
            ) AS b
            ORDER BY id LIMIT %(batches)s
            """,
            {"window": window, "batches": batches, "ids": ids_of_each},
        )
        return [BatchMessage(*row) for row in cursor.fetchall()]


# --- What people and probes ask ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """The batches between dispatch and ack, those of them in no window yet, and their rows by outbox."""

    total: int = 0
    unsealed: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)


def count_batches() -> BatchCounts:
    """Return how many batches there are. Back-pressure bounds them, so all are read."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT outbox, count(*), count(*) FILTER (WHERE window_id IS NULL), sum(rows)::bigint FROM {BATCHES} AS b
            GROUP BY outbox
            """
        )
        found = cursor.fetchall()
        return BatchCounts(
            total=sum(batches for _, batches, _, _ in found),
            unsealed=sum(unsealed for _, _, unsealed, _ in found),
            rows={outbox: rows for outbox, _, _, rows in found},
        )


@dataclass(frozen=True, slots=True)
class LateBatches:
    """Batches that have been in no window for too long, and the seconds since the first of them was dispatched."""

    batches: int
    oldest_seconds: int


def count_late_batches(*, outboxes: Sequence[str], late_seconds: float) -> LateBatches | None:
    """Return the batches of these outboxes that were dispatched `late_seconds` ago and are still in no window; None if
    there are none."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT count(*), extract(epoch FROM statement_timestamp() - min(dispatched_at))::int FROM {BATCHES} AS b
            WHERE window_id IS NULL AND dispatched_at < statement_timestamp() - make_interval(secs => %(late)s)
            AND outbox = ANY(%(outboxes)s)
            """,
            {"late": late_seconds, "outboxes": list(outboxes)},
        )
        batches, oldest_seconds = cursor.fetchone()
        return LateBatches(batches, oldest_seconds) if batches else None


def largest_ids_in_flight() -> dict[str, int]:
    """Return the largest row id in any batch, by outbox."""
    with driver.cursor() as cursor:
        cursor.execute(f"SELECT outbox, max(row_id) FROM {BATCHES} AS b, unnest(ids) AS row_id GROUP BY outbox")
        return dict(cursor.fetchall())
