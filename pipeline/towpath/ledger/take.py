"""Take: the next rows of an outbox become batches, and the cursor moves, in one statement and so in one snapshot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import connection

from towpath import driver
from towpath.ledger.batches import BatchMessage
from towpath.ledger.cursors import NOT_HELD, by_xid, parsed
from towpath.ledger.snapshot import Run, unseen

if TYPE_CHECKING:
    from towpath.ledger.cursors import Cursor
    from towpath.outbox.models import Outbox

#: The most runs of a cursor. While it has that many, it advances only by what it can take whole.
MOST_RUNS = 8


@dataclass(frozen=True, slots=True)
class PageLimits:
    """How many new rows and rows of a backlog may be dispatched, and how large the batches of each may be."""

    new_rows: int
    backlog_rows: int
    batch_ids: int
    batch_bytes: int
    backlog_batch_ids: int
    backlog_batch_bytes: int


def take_new(model: type[Outbox], at: Cursor, limits: PageLimits) -> tuple[list[BatchMessage], Cursor]:
    """Put the rows that the cursor has not seen into batches, within the limits. Returns the cursor after that.

    If they are at most `new_rows`, they are new. Otherwise they are a backlog, and the rows beyond `backlog_rows` are
    left to a run. If the cursor can have no more runs, it stays where it is, and so do the rows.

    It is one statement, and so one snapshot, which must be younger than that of the lock on the cursor.
    """
    everything_new = Run(at.seen, at.seen, None, at.is_rewound)
    return _take(model, at, everything_new, limits, is_new=True)


def take_page(model: type[Outbox], at: Cursor, limits: PageLimits) -> tuple[list[BatchMessage], Cursor]:
    """Put the next rows of the cursor's first run into batches. Returns the cursor after that. If the run is not
    finished, the other runs come first from then on."""
    return _take(model, at, at.runs[0], limits, is_new=False)


def _take(
    model: type[Outbox], at: Cursor, run: Run, limits: PageLimits, *, is_new: bool
) -> tuple[list[BatchMessage], Cursor]:
    stretches = unseen(run.seen, run.page)
    outbox = model.outbox_name()
    with driver.cursor() as cursor:
        cursor.execute(
            _page_sql(model),
            {
                "outbox": outbox,
                "version": at.version,
                "is_new": is_new,
                "may_leave_run": not is_new or len(at.runs) < MOST_RUNS,
                "seen": str(run.seen),
                "target": None if is_new else str(run.target),
                "page": None if run.page is None else json.dumps([run.page.xid, run.page.id]),
                "open_xids": [str(start.xid) for start in stretches.open_transactions],
                "open_ids": [start.id for start in stretches.open_transactions],
                "tail_xid": str(stretches.tail.xid),
                "tail_id": stretches.tail.id,
                "is_rewound": run.is_rewound,
                "new_rows": limits.new_rows if is_new else -1,
                "backlog_rows": limits.backlog_rows,
                "most": max(limits.new_rows, limits.backlog_rows) if is_new else limits.backlog_rows,
                "batch_ids": limits.batch_ids,
                "batch_bytes": limits.batch_bytes,
                "backlog_batch_ids": max(limits.batch_ids, limits.backlog_batch_ids),
                "backlog_batch_bytes": max(limits.batch_bytes, limits.backlog_batch_bytes),
            },
        )
        found = cursor.fetchall()
    if not found:
        return [], at
    batches = [BatchMessage(row[4], outbox, *row[5:]) for row in found if row[4] is not None]
    return batches, parsed(*found[0][:4])


def _page_sql(model: type[Outbox]) -> str:
    rows = by_xid(model.outbox_name(), payload=model.payload_column)
    payload_bytes = f"octet_length(o.{connection.ops.quote_name(model.payload_column)})" if model.payload_column else 0
    not_held = f"(NOT %(is_rewound)s OR {NOT_HELD})"
    return f"""
WITH
-- The snapshot that a run goes up to; for what is new, that of now.
target AS MATERIALIZED (
    SELECT coalesce(%(target)s::pg_snapshot, pg_current_snapshot()) AS snapshot
),
-- The next rows that have not been seen, and one more if there is one. Two range scans instead of one "not visible in
-- seen", which would pass over every dead row since the oldest open transaction, each time.
page AS MATERIALIZED (
    SELECT xid, id, bytes FROM (
        -- Of transactions that were open in the snapshot that was seen, and are not any more.
        SELECT found.* FROM unnest(%(open_xids)s::xid8[], %(open_ids)s::bigint[]) AS open (xid, id)
        CROSS JOIN LATERAL (
            SELECT o.xid, o.id, {payload_bytes} AS bytes FROM {rows} AS o
            WHERE o.xid = open.xid AND o.id > open.id AND {not_held}
            ORDER BY o.id LIMIT %(most)s + 1
        ) AS found
        WHERE pg_visible_in_snapshot(open.xid, (SELECT snapshot FROM target))
        UNION ALL
        -- Of transactions that have begun since.
        (
            SELECT o.xid, o.id, {payload_bytes} AS bytes FROM {rows} AS o
            WHERE (o.xid, o.id) > (%(tail_xid)s::xid8, %(tail_id)s::bigint)
              AND o.xid < (SELECT pg_snapshot_xmax(snapshot) FROM target)
              AND pg_visible_in_snapshot(o.xid, (SELECT snapshot FROM target)) AND {not_held}
            ORDER BY o.xid, o.id LIMIT %(most)s + 1
        )
    ) AS unseen
    ORDER BY xid, id LIMIT %(most)s + 1
),
-- All of them, or as many as a backlog may take; and how large a batch may be. One of a backlog is a window by itself.
size AS MATERIALIZED (
    SELECT is_backlog, is_more, CASE WHEN is_more THEN %(backlog_rows)s ELSE rows END AS taken,
           CASE WHEN is_backlog THEN %(backlog_batch_ids)s ELSE %(batch_ids)s END AS ids,
           CASE WHEN is_backlog THEN %(backlog_batch_bytes)s ELSE %(batch_bytes)s END AS bytes
    FROM (
        SELECT count(*) AS rows, count(*) > %(new_rows)s AS is_backlog, count(*) > %(most)s AS is_more FROM page
    ) AS page
),
-- The last row that is taken, if there is more.
last AS (
    SELECT xid, id FROM page ORDER BY xid, id
    OFFSET (SELECT greatest(taken, 1) - 1 FROM size) LIMIT (SELECT least(taken, is_more::int) FROM size)
),
-- The cursor has seen now, or its first run has come to the last row taken. What is left is a run, the last in turn.
forward AS (
    UPDATE pipeline_cursor AS c SET
        version = c.version + 1,
        seen = CASE WHEN %(is_new)s THEN target.snapshot ELSE c.seen END,
        is_rewound = c.is_rewound AND NOT %(is_new)s,
        runs = CASE WHEN %(is_new)s THEN c.runs ELSE c.runs - 0 END
            || CASE WHEN size.is_more THEN jsonb_build_array(jsonb_build_object(
                   'seen', %(seen)s::text,
                   'target', target.snapshot::text,
                   'page', CASE WHEN last.id IS NULL THEN %(page)s::jsonb
                                ELSE jsonb_build_array(last.xid::text::bigint, last.id) END,
                   'is_rewound', %(is_rewound)s)) ELSE '[]' END,
        dispatched_at = clock_timestamp()
    FROM target CROSS JOIN size LEFT JOIN last ON true
    WHERE c.outbox = %(outbox)s AND c.version = %(version)s AND (%(may_leave_run)s OR NOT size.is_more)
    RETURNING c.version, c.seen::text, c.is_rewound, c.runs::text
),
-- To which part of the page each row belongs: a new one begins with too many ids, and with too many bytes.
numbered AS (
    SELECT id, bytes, row_number() OVER ordered AS number,
           (row_number() OVER ordered - 1) / (SELECT ids FROM size)
           + (sum(bytes) OVER ordered) / (SELECT bytes FROM size) AS part
    FROM page WINDOW ordered AS (ORDER BY xid, id ROWS UNBOUNDED PRECEDING)
),
-- Each part is a batch. A second dispatcher finds another version of the cursor, and inserts none.
batches AS (
    INSERT INTO pipeline_batch (outbox, ids, rows, bytes, is_backlog, dispatched_at)
    SELECT %(outbox)s, array_agg(id), count(*), sum(bytes), (SELECT is_backlog FROM size), clock_timestamp()
    FROM numbered WHERE number <= (SELECT taken FROM size) AND EXISTS (SELECT FROM forward)
    GROUP BY part ORDER BY part
    RETURNING id, ids, bytes, is_backlog
)
SELECT forward.*, batches.* FROM forward LEFT JOIN batches ON true ORDER BY batches.id
"""
