"""Cursors: how far each outbox has been dispatched. They move together with the batches, in one statement.

Transaction ids mean something in one PostgreSQL cluster only, so a cursor remembers whose it has seen. In another
cluster (after a restore by pg_dump) it is rewound: it has seen nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import connection, transaction

from towpath.ledger.batches import BATCHES, BatchMessage
from towpath.ledger.marks import INDEX_PROBES_ONLY, INSERTING_BATCHES
from towpath.ledger.snapshot import Position, Snapshot, unseen
from towpath.ledger.versions import newest, newest_of_each
from towpath.outbox.fields import RowLimits, TransactionIndex

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from towpath.outbox.models import Outbox

_CLUSTER = "(SELECT system_identifier::text FROM pg_control_system())"

#: True of the cursor `c`. The lower xmax tells a cluster that was set back in some other way than by pg_dump.
_IS_OF_ANOTHER_CLUSTER = f"""
    (c.cluster <> {_CLUSTER} OR pg_snapshot_xmax(pg_current_snapshot()) < pg_snapshot_xmax(c.seen))"""

#: PostgreSQL's number of the table with the name of the outbox.
_TABLE_OID = "to_regclass(quote_ident(%(outbox)s))::oid::bigint"

#: True of the cursor `c` if the outbox's table was dispatched by it, under a name that is not known.
_IS_OF_AN_UNKNOWN_NAME = f"(c.table_oid = {_TABLE_OID} AND c.cluster = {_CLUSTER} AND c.outbox <> ALL(%(known)s))"

#: The cursor of each of the outboxes of the parameter.
_THEIR_NEWEST = f"""
    unnest(%(outboxes)s::text[]) AS asked (name)
    CROSS JOIN LATERAL {newest("pipeline_cursor", key="outbox", value="asked.name")}"""

#: The cursor of every outbox that has one.
EVERY_CURSOR = newest_of_each("pipeline_cursor", key="outbox")


@dataclass(frozen=True, slots=True)
class Cursor:
    """What a cursor has seen. In the middle of a backlog, also the snapshot that the pages run up to, as PostgreSQL's
    text, and the last row of the page before. One that is rewound leaves out what batches and dead letters hold."""

    version: int
    seen: Snapshot
    target: str | None
    page: Position | None
    is_rewound: bool


@dataclass(frozen=True, slots=True)
class News:
    """What a look found out about one outbox: whether there are rows, and whether its cursor must be rewound first."""

    outbox: str
    has_rows: bool
    is_of_another_cluster: bool


def create(outbox: str, *, known: Collection[str]) -> bool:
    """Give the outbox a cursor that has seen nothing, unless it has one. True if it got another name's.

    An outbox whose table was dispatched under a name that is not `known` gets that name's cursor, if nothing is under
    way under the name. If something is, the outbox gets none: its rows would be dispatched again.
    """
    names: dict[str, Any] = {"outbox": outbox, "known": list(known)}
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            UPDATE pipeline_cursor AS c SET version = version + 1, outbox = %(outbox)s
            WHERE {_IS_OF_AN_UNKNOWN_NAME} AND NOT EXISTS (SELECT FROM pipeline_cursor WHERE outbox = %(outbox)s)
              AND NOT EXISTS (SELECT FROM pipeline_batch AS b WHERE b.outbox = c.outbox)
              AND NOT EXISTS (SELECT FROM pipeline_deadletter AS d WHERE d.outbox = c.outbox)
            """,
            names,
        )
        is_renamed = bool(cursor.rowcount)
        cursor.execute(
            f"""
            UPDATE pipeline_cursor SET version = version + 1, table_oid = {_TABLE_OID}
            WHERE outbox = %(outbox)s AND table_oid IS DISTINCT FROM {_TABLE_OID}
              AND NOT EXISTS (SELECT FROM pipeline_cursor AS c WHERE {_IS_OF_AN_UNKNOWN_NAME})
            """,
            names,
        )
        cursor.execute(
            f"""
            INSERT INTO pipeline_cursor (outbox, version, cluster, seen, is_rewound, table_oid)
            SELECT %(outbox)s, 0, {_CLUSTER}, '1:1:', false, {_TABLE_OID}
            WHERE NOT EXISTS (SELECT FROM pipeline_cursor AS c WHERE {_IS_OF_AN_UNKNOWN_NAME})
              AND NOT EXISTS (SELECT FROM pipeline_cursor WHERE outbox = %(outbox)s)
            ON CONFLICT DO NOTHING
            """,
            names,
        )
    return is_renamed


def current_snapshot() -> str:
    """PostgreSQL's snapshot, as text. While no transaction ends, it stays the same."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_snapshot()::text")
        return str(cursor.fetchone()[0])


def news(outboxes: Collection[str]) -> list[News]:
    """For each outbox with a cursor, whether there is something to do: rows, more pages, or a rewind.

    The rows and the snapshots they are compared with are read in one statement: in two, a cursor that another
    dispatcher moves in between would look as if it were of another cluster.
    """
    names = {f"outbox_{number}": name for number, name in enumerate(outboxes)}
    # Two probes of the index of each outbox, of which the first that finds a row is the last.
    probes = "\n".join(
        f"""
        WHEN %({parameter})s THEN EXISTS (SELECT FROM {by_xid(name)} AS o WHERE o.xid >= c.next_xid)
                               OR EXISTS (SELECT FROM {by_xid(name)} AS o WHERE o.xid = ANY (c.open_xids))"""
        for parameter, name in names.items()
    )
    with connection.cursor() as cursor:
        # What the probes need of a snapshot is taken from it once (OFFSET 0): with fifty outboxes, it would cost as
        # much as all the probes. One message to the server, and so one transaction, in which alone the settings hold.
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT c.outbox,
                   c.target IS NOT NULL OR CASE c.outbox {probes} END,
                   c.cluster <> {_CLUSTER} OR pg_snapshot_xmax(pg_current_snapshot()) < c.next_xid
            FROM (
                SELECT outbox, target, cluster, pg_snapshot_xmax(seen) AS next_xid,
                       ARRAY(SELECT pg_snapshot_xip(seen)) AS open_xids
                FROM {_THEIR_NEWEST} AS newest OFFSET 0
            ) AS c
            """,
            {**names, "outboxes": list(outboxes)},
        )
        return [News(*row) for row in cursor.fetchall()]


def lock(outboxes: Sequence[str]) -> dict[str, Cursor]:
    """The cursors of the outboxes, locked for this transaction; without those that another dispatcher has, or moves
    while they are read.

    The transaction's pages are read by the index, too.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT c.outbox, c.version, c.seen::text, c.target::text, c.page_xid::text, c.page_id, c.is_rewound
            FROM {_THEIR_NEWEST} AS newest
            JOIN pipeline_cursor AS c ON c.outbox = newest.outbox AND c.version = newest.version
            FOR UPDATE OF c SKIP LOCKED
            """,
            {"outboxes": list(outboxes)},
        )
        return {
            name: Cursor(
                version,
                Snapshot.parse(seen),
                target,
                None if page_xid is None else Position(int(page_xid), page_id),
                is_rewound,
            )
            for name, version, seen, target, page_xid, page_id, is_rewound in cursor.fetchall()
        }


def take_page(
    model: type[Outbox],
    at: Cursor,
    *,
    max_rows: int,
    batch_ids: int,
    batch_bytes: int,
    backlog_batch_ids: int = 0,
    backlog_batch_bytes: int = 0,
) -> tuple[list[BatchMessage], bool]:
    """Put the next rows into batches and move the cursor: the batches, and whether there may be another page.

    One statement, and so one snapshot. It must be younger than that of the lock on the cursor.
    """
    stretches = unseen(at.seen, at.page)
    outbox = model.outbox_name()
    with connection.cursor() as cursor:
        cursor.execute(
            _page_sql(model),
            {
                "outbox": outbox,
                "version": at.version,
                "target": at.target,
                "open_xids": [str(start.xid) for start in stretches.open_transactions],
                "open_ids": [start.id for start in stretches.open_transactions],
                "tail_xid": str(stretches.tail.xid),
                "tail_id": stretches.tail.id,
                "is_rewound": at.is_rewound,
                "max_rows": max_rows,
                "batch_ids": batch_ids,
                "batch_bytes": batch_bytes,
                "backlog_batch_ids": max(batch_ids, backlog_batch_ids),
                "backlog_batch_bytes": max(batch_bytes, backlog_batch_bytes),
            },
        )
        found = cursor.fetchall()
    batches = [BatchMessage(batch, outbox, *carried) for batch, *carried, _ in found]
    return batches, bool(found) and found[0][-1]


def _page_sql(model: type[Outbox]) -> str:
    rows = by_xid(model.outbox_name())
    payload_bytes = f"octet_length(o.{connection.ops.quote_name(model.payload_column)})" if model.payload_column else 0
    not_held = f"(NOT %(is_rewound)s OR {NOT_HELD})"
    return f"""{INSERTING_BATCHES}
WITH
-- The snapshot that this run of pages goes up to: that of its first page.
target AS MATERIALIZED (
    SELECT coalesce(%(target)s::pg_snapshot, pg_current_snapshot()) AS snapshot
),
-- The next rows that the cursor has not seen. Two range scans instead of one "not visible in seen", which would pass
-- over every dead row since the oldest open transaction, each time.
page AS MATERIALIZED (
    SELECT xid, id, bytes FROM (
        -- Of transactions that were open when the cursor last looked, and are not any more.
        SELECT found.* FROM unnest(%(open_xids)s::xid8[], %(open_ids)s::bigint[]) AS open (xid, id)
        CROSS JOIN LATERAL (
            SELECT o.xid, o.id, {payload_bytes} AS bytes FROM {rows} AS o
            WHERE o.xid = open.xid AND o.id > open.id AND {not_held}
            ORDER BY o.id LIMIT %(max_rows)s
        ) AS found
        WHERE pg_visible_in_snapshot(open.xid, (SELECT snapshot FROM target))
        UNION ALL
        -- Of transactions that have begun since.
        (
            SELECT o.xid, o.id, {payload_bytes} AS bytes FROM {rows} AS o
            WHERE (o.xid, o.id) > (%(tail_xid)s::xid8, %(tail_id)s::bigint)
              AND o.xid < (SELECT pg_snapshot_xmax(snapshot) FROM target)
              AND pg_visible_in_snapshot(o.xid, (SELECT snapshot FROM target)) AND {not_held}
            ORDER BY o.xid, o.id LIMIT %(max_rows)s
        )
    ) AS unseen
    ORDER BY xid, id LIMIT %(max_rows)s
),
-- The last row of a full page; of one that is not full, nothing: then this run of pages is over.
last_of_full AS (
    SELECT xid, id FROM page ORDER BY xid, id OFFSET %(max_rows)s - 1
),
-- How large a batch may be. One of a backlog makes a window by itself.
largest AS MATERIALIZED (
    SELECT is_backlog,
           CASE WHEN is_backlog THEN %(backlog_batch_ids)s ELSE %(batch_ids)s END AS ids,
           CASE WHEN is_backlog THEN %(backlog_batch_bytes)s ELSE %(batch_bytes)s END AS bytes
    FROM (SELECT %(target)s IS NOT NULL OR EXISTS (SELECT FROM last_of_full)) AS page (is_backlog)
),
-- To which part of the page each row belongs: a new one begins with too many ids, and with too many bytes.
numbered AS (
    SELECT page.id, page.bytes, (row_number() OVER ordered - 1) / largest.ids
                                + (sum(page.bytes) OVER ordered) / largest.bytes AS part
    FROM page CROSS JOIN largest WINDOW ordered AS (ORDER BY page.xid, page.id ROWS UNBOUNDED PRECEDING)
),
-- Each part is a batch.
batches AS (
    INSERT INTO pipeline_batch (outbox, ids, rows, bytes, is_backlog, dispatched_at)
    SELECT %(outbox)s, array_agg(id), count(*), sum(bytes),
           (SELECT is_backlog FROM largest), clock_timestamp()
    FROM numbered GROUP BY part ORDER BY part
    RETURNING id, ids, bytes, is_backlog
),
-- The cursor has seen the target, or is in the middle of it.
forward AS (
    UPDATE pipeline_cursor AS c SET
        version = c.version + 1,
        seen = CASE WHEN last.id IS NULL THEN target.snapshot ELSE c.seen END,
        target = CASE WHEN last.id IS NULL THEN NULL ELSE target.snapshot END,
        page_xid = last.xid,
        page_id = last.id,
        is_rewound = c.is_rewound AND last.id IS NOT NULL,
        dispatched_at = clock_timestamp()
    FROM target LEFT JOIN last_of_full AS last ON true
    WHERE c.outbox = %(outbox)s AND c.version = %(version)s
)
SELECT id, ids, bytes, is_backlog, EXISTS (SELECT FROM last_of_full) FROM batches ORDER BY id
"""


#: True of an outbox row `o` that no batch and no dead letter holds.
NOT_HELD = f"""(
    o.id NOT IN (SELECT unnest(ids) FROM {BATCHES} AS b WHERE outbox = %(outbox)s)
    AND o.id NOT IN (SELECT row_id FROM pipeline_deadletter WHERE outbox = %(outbox)s))"""


def rewind(model: type[Outbox]) -> bool:
    """If the cursor is of another cluster, let it have seen nothing of this one. True if it was.

    The restored rows' own xids mean nothing here. Those this cluster has not reached yet would stay invisible to the
    snapshot until it does, so they get the xid of this transaction.
    """
    outbox = {"outbox": model.outbox_name()}
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"""
            UPDATE pipeline_cursor AS c
            SET version = version + 1, cluster = {_CLUSTER}, seen = '1:1:', target = NULL, page_xid = NULL,
                page_id = NULL, is_rewound = true
            WHERE outbox = %(outbox)s AND {_IS_OF_ANOTHER_CLUSTER}
            """,
            outbox,
        )
        if not cursor.rowcount:
            return False
        cursor.execute(
            f"""
            UPDATE {_table(model.outbox_name())} SET xid = pg_current_xact_id()
            WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()) AND {is_within_limits(model)}
            """
        )
    return True


def seen(outbox: str, *, is_locked: bool) -> Snapshot | None:
    """What the cursor has seen, locked for this transaction if asked; None when it looks at all rows anyway: before
    the first look, and after a restore."""
    # One that is moved while we wait for its lock has another version then. So it is asked for by its name, which
    # passes over the dead: seldom, because a person asks.
    one = "pipeline_cursor" if is_locked else newest("pipeline_cursor", key="outbox", value="%(outbox)s")
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT c.seen::text FROM {one} AS c
            WHERE c.outbox = %(outbox)s AND NOT c.is_rewound AND NOT {_IS_OF_ANOTHER_CLUSTER}
            {"FOR UPDATE OF c" if is_locked else ""}
            """,
            {"outbox": outbox},
        )
        found = cursor.fetchone()
    return None if found is None else Snapshot.parse(found[0])


def is_within_limits(model: type[Outbox]) -> str:
    """SQL: true of a row that may be updated. One from before the table's limits breaks them, and is a dead letter at
    best."""
    limits = [one for one in model._meta.constraints if isinstance(one, RowLimits)]
    # As in a constraint: unknown, because a column is NULL, is no breach.
    return f"({' AND '.join(condition for one in limits for condition in one.conditions) or 'true'}) IS NOT FALSE"


def by_xid(outbox: str) -> str:
    """SQL: the rows of an outbox, for a condition on `xid`. Without this, its index is not for it."""
    return f"(SELECT * FROM {_table(outbox)} WHERE {TransactionIndex.IN_INDEX})"


def _table(outbox: str) -> str:
    return connection.ops.quote_name(outbox)


def see_everything_uncommitted() -> None:
    """Let every cursor start over, up to a snapshot that shows what is not committed, too: for a test in a transaction
    that is rolled back, and for nothing else."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH beyond AS (
                SELECT 1 + max(xid::text::bigint) AS xid
                FROM (VALUES (pg_current_xact_id()), (pg_snapshot_xmax(pg_current_snapshot()))) AS known (xid)
            )
            UPDATE pipeline_cursor SET
                version = version + 1, seen = '1:1:', target = format('%1$s:%1$s:', beyond.xid)::pg_snapshot,
                page_xid = NULL, page_id = NULL, is_rewound = true
            FROM beyond
            """
        )


# --- What people and probes ask ----------------------------------------------------------------------------------


def read_last_dispatches() -> dict[str, datetime]:
    """Return when rows of each outbox were last put into batches; without those of which none ever were."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT outbox, dispatched_at FROM {EVERY_CURSOR} AS c WHERE dispatched_at IS NOT NULL")
        return dict(cursor.fetchall())
