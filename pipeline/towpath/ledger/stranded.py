"""Stranded rows: undelivered, and no cursor will ever see them.

A row keeps the transaction id that it comes with. One from a dump, from `INSERT ... SELECT`, COPY or a subscription
can have that of a transaction which the cursor has passed, or of one that is still to come. What is found is exact: in
one snapshot, a row that the cursor has seen is still to come in one of its runs, or is in a batch, or a dead letter, or
it is stranded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import connection

from towpath import driver
from towpath.eventlog.values import NO_WINDOW
from towpath.ledger.cursors import NOT_HELD, by_xid, is_within_limits
from towpath.ledger.snapshot import ending_before, passed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towpath.ledger.cursors import Cursor
    from towpath.outbox.models import Outbox

#: Enough for a hashed list of every id that can be in flight: without it, PostgreSQL would read the list for each row.
_ROOM_FOR_A_HASH = "SET LOCAL work_mem = '64MB';"


def count(model: type[Outbox], at: Cursor, *, most: int, before: int | None = None) -> tuple[int, int | None]:
    """How many rows the cursor will never see, `most` at most; and the id of the first.

    With `before`, of the transactions that the cursor has passed, only those below are looked at.
    """
    with driver.cursor() as cursor:
        cursor.execute(
            f"{_ROOM_FOR_A_HASH} SELECT count(*), (array_agg(id))[1] FROM ({_rows_sql(model)}) AS stranded",
            _parameters(model, at, limit=most, before=before),
        )
        rows, first = cursor.fetchone()
    return rows, first


def find(model: type[Outbox], at: Cursor, *, most: int) -> list[int]:
    """The ids of the rows that the cursor will never see, `most` at most."""
    with driver.cursor() as cursor:
        cursor.execute(f"{_ROOM_FOR_A_HASH} {_rows_sql(model)}", _parameters(model, at, limit=most))
        return [id_ for (id_,) in cursor.fetchall()]


def dispatch_again(model: type[Outbox], ids: Sequence[int]) -> int:
    """Give the rows the xid of this transaction, for the dispatcher to see them; how many there were.

    No event store takes those that break the limits of the table, which it may have got later than them: these become
    dead letters.
    """
    outbox = model.outbox_name()
    table = connection.ops.quote_name(outbox)
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            INSERT INTO pipeline_deadletter (outbox, row_id, error, window_id, at)
            SELECT %(outbox)s, id, %(error)s, %(window)s, clock_timestamp() FROM {table}
            WHERE id = ANY(%(ids)s) AND NOT ({is_within_limits(model)})
            """,
            {
                "outbox": outbox,
                "error": "it breaks the limits of its table",
                "window": NO_WINDOW,
                "ids": list(ids),
            },
        )
        refused = cursor.rowcount
        cursor.execute(
            f"""
            UPDATE {table} SET xid = pg_current_xact_id() WHERE id = ANY(%(ids)s) AND {is_within_limits(model)}
            """,
            {"ids": list(ids)},
        )
        return int(refused + cursor.rowcount)


def _rows_sql(model: type[Outbox]) -> str:
    rows = by_xid(model.outbox_name())
    return f"""
SELECT id FROM (
    -- Of transactions that the cursor has passed: as ranges of the index, so that those that wait, a million of them
    -- perhaps, are not read.
    SELECT found.id, found.xid
    FROM unnest(%(after_xids)s::xid8[], %(after_ids)s::bigint[], %(until_xids)s::xid8[], %(until_ids)s::bigint[])
        AS passed (after_xid, after_id, until_xid, until_id)
    CROSS JOIN LATERAL (
        SELECT o.id, o.xid FROM {rows} AS o
        WHERE (o.xid, o.id) > (passed.after_xid, passed.after_id)
          AND (o.xid, o.id) <= (passed.until_xid, passed.until_id) AND {NOT_HELD}
        ORDER BY o.xid, o.id LIMIT %(limit)s
    ) AS found
    UNION ALL
    -- Of transactions to come: a row that a snapshot shows is of a transaction below its xmax. What lies above has a
    -- false xid, but for rows of this very transaction.
    (
        SELECT o.id, o.xid FROM {rows} AS o
        WHERE o.xid >= pg_snapshot_xmax(pg_current_snapshot())
          AND o.xid IS DISTINCT FROM pg_current_xact_id_if_assigned() AND {NOT_HELD}
        ORDER BY o.xid, o.id LIMIT %(limit)s
    )
) AS passed_and_to_come
ORDER BY xid, id LIMIT %(limit)s"""


def count_dead_rows(outbox: str) -> int:
    """About how many dead rows vacuum has left in the outbox, by PostgreSQL's statistics."""
    with driver.cursor() as cursor:
        cursor.execute(
            "SELECT pg_stat_get_dead_tuples(%(table)s::regclass)", {"table": connection.ops.quote_name(outbox)}
        )
        return int(cursor.fetchone()[0])


def _parameters(model: type[Outbox], at: Cursor, *, limit: int, before: int | None = None) -> dict[str, Any]:
    ranges = passed(at.seen, at.runs)
    if before is not None:
        ranges = ending_before(before, ranges)
    return {
        "outbox": model.outbox_name(),
        "after_xids": [str(one.after.xid) for one in ranges],
        "after_ids": [one.after.id for one in ranges],
        "until_xids": [str(one.until.xid) for one in ranges],
        "until_ids": [one.until.id for one in ranges],
        "limit": limit,
    }
