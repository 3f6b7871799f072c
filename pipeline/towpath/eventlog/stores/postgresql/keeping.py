"""What retention and erasure do to the OBT on PostgreSQL: drop partitions, and update rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from towpath.eventlog.masking import MASK
from towpath.eventlog.stores.postgresql.schema import SCHEMA_LOCK, TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from towpath.eventlog.store import MaskedRow

#: How long dropping a month may wait for the lock on the table. Every write queues up behind it in the meantime.
_LOCK_SECONDS = 5

#: Most rows of one UPDATE, and most characters of their contexts.
_ROWS = 500
_CHARACTERS = 4_000_000

#: The names of the partitions for the month or a part of it, quoted for SQL.
PARTITIONS = f"""
SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class ON oid = inhrelid
CROSS JOIN regexp_match(pg_get_expr(relpartbound, oid), 'FROM \\(''([^'']+)''\\) TO \\(''([^'']+)''\\)') AS bound
WHERE inhparent = '{TABLE}'::regclass AND bound[1]::timestamptz >= %(since)s AND bound[2]::timestamptz <= %(until)s
"""


def keep_writers_out(partitions: Sequence[str]) -> str:
    """Return one message that begins a transaction in which nobody else writes to the table or to these partitions."""
    tables = "".join(f", {name}" for name in partitions)
    return f"""
        BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '{_LOCK_SECONDS}s';
        SELECT pg_advisory_xact_lock({SCHEMA_LOCK});
        LOCK TABLE ONLY {TABLE}{tables} IN SHARE ROW EXCLUSIVE MODE
        """


def drop_month(partitions: Sequence[str]) -> str:
    """Return one message that drops the partitions, deletes rows of the month that are elsewhere, such as in a default
    partition, and commits."""
    drops = "".join(f"ALTER TABLE {TABLE} DETACH PARTITION {name}; DROP TABLE {name};" for name in partitions)
    return f"""
        {drops} DELETE FROM {TABLE} WHERE event_date_time >= %(since)s AND event_date_time < %(until)s; COMMIT
        """


def updates(rows: Sequence[MaskedRow], *, mask: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the statements that rewrite the rows, with their parameters."""
    assignments = [f"{name} = CASE WHEN stored.{name} = '' THEN '' ELSE '{MASK}' END" for name in rows[0].columns]
    sql = f"""
        UPDATE {TABLE} AS stored SET {", ".join(["event_context = masked.after", *assignments])}
        FROM unnest(
            %(windows)s::uuid[], %(outboxes)s::text[], %(ids)s::bigint[], %(times)s::timestamptz[],
            %(contexts)s::text[], %(masked)s::text[]
        ) AS masked (window_id, outbox, outbox_id, event_date_time, before, after)
        WHERE stored.window_id = ANY(%(windows)s::uuid[]) AND stored.window_id = masked.window_id
          AND stored.outbox = masked.outbox COLLATE "C"
          AND stored.outbox_id = masked.outbox_id AND stored.event_date_time = masked.event_date_time
          AND stored.event_context = masked.before
        """
    for part in _parts(rows):
        events = [row.event for row in part]
        yield (
            sql,
            {
                "windows": [str(event.window_id) for event in events],
                "outboxes": [event.outbox for event in events],
                "ids": [event.outbox_id for event in events],
                "times": [event.event_date_time for event in events],
                "contexts": [event.event_context for event in events],
                "masked": [row.context(mask) for row in part],
            },
        )


def _parts(rows: Sequence[MaskedRow]) -> Iterator[list[MaskedRow]]:
    part: list[MaskedRow] = []
    characters = 0
    for row in rows:
        if part and (len(part) >= _ROWS or characters + len(row.event.event_context) > _CHARACTERS):
            yield part
            part, characters = [], 0
        part.append(row)
        characters += len(row.event.event_context)
    if part:
        yield part
