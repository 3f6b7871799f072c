"""Dispatch: every committed outbox row gets into exactly one batch, and the batch's ids onto RabbitMQ.

Batches and cursor are committed together, under the lock of the cursor's row. If the power goes before that COMMIT,
nothing has happened; after it and before the messages are confirmed, the batches are in the ledger and `recover`
seals them. A message is only ever a hint: none of them is the sole copy of anything.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from django.db import connection, transaction

from towpath.flow.batch import BatchMessage
from towpath.flow.snapshot import Position, Snapshot, unseen
from towpath.outbox.fields import RowLimits
from towpath.telemetry import failpoints, metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from django.db.backends.utils import CursorWrapper

    from towpath.flow.batch import EnqueueBatches
    from towpath.outbox.models import Outbox

log = structlog.get_logger()

#: Rows of one page, at most: bounds the transaction and the memory of one step through a large backlog.
_PAGE_ROWS = 50_000


#: Transaction ids mean something in one cluster only. A restore by pg_dump brings the rows' and the cursor's into
#: another; the lower xmax tells one that was set back in some other way.
_CLUSTER = "(SELECT system_identifier::text FROM pg_control_system())"
IS_OF_ANOTHER_CLUSTER = f"c.cluster <> {_CLUSTER} OR pg_snapshot_xmax(pg_current_snapshot()) < pg_snapshot_xmax(c.seen)"


_TABLE_OID = "to_regclass(quote_ident(%(outbox)s))::oid::bigint"
_ADOPT_CURSOR = f"""
UPDATE pipeline_cursor AS c SET outbox = %(outbox)s
WHERE c.table_oid = {_TABLE_OID} AND c.cluster = {_CLUSTER} AND c.outbox <> ALL(%(known)s)
AND NOT EXISTS (SELECT FROM pipeline_cursor WHERE outbox = %(outbox)s)
AND NOT EXISTS (SELECT FROM pipeline_batch AS b WHERE b.outbox = c.outbox)
AND NOT EXISTS (SELECT FROM pipeline_deadletter AS d WHERE d.outbox = c.outbox)
"""
_CREATE_CURSOR = f"""
INSERT INTO pipeline_cursor (outbox, cluster, seen, is_rewound, table_oid)
SELECT %(outbox)s, {_CLUSTER}, '1:1:', false, {_TABLE_OID}
WHERE NOT EXISTS (
    SELECT FROM pipeline_cursor AS c
    WHERE c.table_oid = {_TABLE_OID} AND c.cluster = {_CLUSTER} AND c.outbox <> ALL(%(known)s))
ON CONFLICT (outbox) DO UPDATE SET table_oid = excluded.table_oid
WHERE pipeline_cursor.table_oid IS DISTINCT FROM excluded.table_oid
"""

#: For the dispatcher's own connection: each look is a few probes of an index, whatever the planner believes.
_INDEX_PROBES_ONLY = (
    "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off"
)


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """`batch_ids` ids or `batch_bytes` payload bytes to a batch; `in_flight_rows` between dispatch and ack."""

    batch_ids: int
    batch_bytes: int
    in_flight_rows: int


@dataclass(frozen=True, slots=True)
class _CursorRow:
    seen: Snapshot
    target: str | None
    page: Position | None
    is_rewound: bool


class Dispatcher:
    """Moves what has been committed since the last look. One at a time works at an outbox: the cursor's row lock."""

    def __init__(
        self, outboxes: Mapping[str, type[Outbox]], *, limits: DispatchLimits, enqueue: EnqueueBatches
    ) -> None:
        self._outboxes = outboxes
        self._limits = limits
        self._enqueue = enqueue
        self._lowest_open_batch = 0
        self._highest_batch = 0
        self._idle_snapshot: str | None = None
        self._prepared_on: object = None
        self._turn = 0
        self._page_sql = {name: _page_sql(model) for name, model in outboxes.items()}
        self._news_name = ""

    def create_cursors(self) -> None:
        """Give each outbox that has none a cursor that has seen nothing.

        One whose table another name's cursor has dispatched gets that cursor, if nothing is under way under the name.
        If something is, it gets none, and is not dispatched: its rows would be dispatched again. `status` says so.
        """
        with transaction.atomic(), connection.cursor() as cursor:
            for name in self._outboxes:
                names: dict[str, Any] = {"outbox": name, "known": list(self._outboxes)}
                cursor.execute(_ADOPT_CURSOR, names)
                if cursor.rowcount:
                    log.warning("cursor_renamed", outbox=name)
                cursor.execute(_CREATE_CURSOR, names)

    def look(self) -> bool:
        """Dispatch what is there, as far as the limit of rows in flight allows. True if some had to stay."""
        started = time.monotonic()
        room = self._limits.in_flight_rows - self._rows_in_flight()
        waiting = self._outboxes_with_news()
        least_room = min(self._limits.batch_ids, self._limits.in_flight_rows)
        if waiting and room < least_room:
            # Rows at fault wait for a person, and take no room away from others.
            room += _isolated_rows()
        if not waiting or room < least_room:
            return bool(waiting)
        # Each gets its share, and the turn goes round: one outbox with a backlog does not starve the others.
        self._turn += 1
        start = self._turn % len(waiting)
        batches, is_more = self._commit_pages([*waiting[start:], *waiting[:start]], room=room)
        failpoints.reach("cursor_committed")
        rows_by_outbox = Counter[str]()
        for batch in batches:
            rows_by_outbox[batch.outbox] += len(batch.ids)
            metrics.batches.labels(batch.outbox).inc()
            metrics.dispatched_rows.labels(batch.outbox).inc(len(batch.ids))
        # From here on the ledger has the batches. Messages that are not confirmed cost latency only: recovery finds
        # the batches unsealed.
        if batches:
            self._enqueue(batches)
            failpoints.reach("enqueued")
            seconds = time.monotonic() - started
            metrics.stage_seconds.labels("dispatch").observe(seconds)
            log.info("batches_dispatched", batches=len(batches), rows=dict(rows_by_outbox), seconds=round(seconds, 4))
        return is_more

    def _commit_pages(self, names: Sequence[str], *, room: int) -> tuple[list[BatchMessage], bool]:
        """A page of each outbox into batches, the cursors forward: one transaction, all or nothing."""
        share = max(self._limits.batch_ids, room // len(names))
        batches: list[BatchMessage] = []
        is_more = False
        with transaction.atomic(), connection.cursor() as cursor:
            # The locks come first and in a statement of their own: the snapshot of the statement that reads the rows
            # must be younger than the cursor it starts from, or rows would be dispatched twice.
            cursors = _lock_cursors(cursor, names)
            for name in names:
                if room <= 0:
                    is_more = True
                    break
                if name not in cursors:
                    continue  # another dispatcher is at it
                page, is_full = self._take_page(cursor, name, cursors[name], max_rows=min(share, room, _PAGE_ROWS))
                room -= sum(len(batch.ids) for batch in page)
                batches += page
                is_more |= is_full
            failpoints.reach("batches_inserted")
        if batches:
            self._highest_batch = max(batch.id for batch in batches)
        return batches, is_more

    def _take_page(
        self, cursor: CursorWrapper, name: str, row: _CursorRow, *, max_rows: int
    ) -> tuple[list[BatchMessage], bool]:
        """The next page's batches, and whether there may be another page."""
        stretches = unseen(row.seen, row.page)
        cursor.execute(
            self._page_sql[name],
            {
                "outbox": name,
                "target": row.target,
                "open_xids": [str(start.xid) for start in stretches.open_transactions],
                "open_ids": [start.id for start in stretches.open_transactions],
                "tail_xid": str(stretches.tail.xid),
                "tail_id": stretches.tail.id,
                "is_rewound": row.is_rewound,
                "max_rows": max_rows,
                "batch_ids": self._limits.batch_ids,
                "batch_bytes": self._limits.batch_bytes,
            },
        )
        found = cursor.fetchall()
        return [BatchMessage(id_, name, ids, size) for id_, ids, size, _ in found], bool(found) and found[0][3]

    def _rows_in_flight(self) -> int:
        # Batches get ascending ids, so whatever is open lies above the lowest that was open before: the look does
        # not grow with the dead rows of batches long gone.
        with connection.cursor() as cursor:
            # Those of outboxes that nobody here knows move when somebody knows them: they take nobody's room.
            cursor.execute(
                "SELECT min(id), sum(rows) FILTER (WHERE outbox = ANY(%s)) FROM pipeline_batch WHERE id >= %s",
                [list(self._outboxes), self._lowest_open_batch],
            )
            lowest, rows = cursor.fetchone()
        self._lowest_open_batch = max(self._lowest_open_batch, self._highest_batch) if lowest is None else lowest
        return int(rows or 0)

    def _outboxes_with_news(self) -> list[str]:
        with connection.cursor() as cursor:
            # While no transaction has ended since a look that found nothing, there is nothing to look for: an idle
            # tick costs the same with one outbox and with fifty.
            cursor.execute("SELECT pg_current_snapshot()::text")
            (snapshot,) = cursor.fetchone()
            if snapshot == self._idle_snapshot:
                return []
            found = self._news(cursor)
        for name, _, is_rewound_now in found:
            if is_rewound_now:
                _rewind(self._outboxes[name])
        waiting = [name for name, has_news, is_rewound_now in found if has_news or is_rewound_now]
        self._idle_snapshot = None if waiting else snapshot
        return waiting

    def _news(self, cursor: CursorWrapper) -> list[tuple[str, bool, bool]]:
        # Prepared, because with fifty outboxes planning takes many times as long as the look itself.
        if connection.connection is not self._prepared_on:
            cursor.execute(f"SELECT {_CLUSTER}")
            sql = _news_sql(self._outboxes, cluster=int(cursor.fetchone()[0]))
            self._news_name = f"towpath_news_{zlib.crc32(sql.encode()):08x}"
            cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE name = %s", [self._news_name])
            if cursor.fetchone() == (0,):
                # A plan made while a table is empty must not read all of it, dead rows too, when it has grown.
                cursor.execute(f"{_INDEX_PROBES_ONLY}; PREPARE {self._news_name} AS {sql}")
            self._prepared_on = connection.connection
        cursor.execute(f"EXECUTE {self._news_name}")
        found: list[tuple[str, bool, bool]] = cursor.fetchall()
        return found


def _isolated_rows() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(sum(rows), 0) FROM pipeline_window WHERE acked_at IS NULL AND is_isolated")
        return int(cursor.fetchone()[0])


def _lock_cursors(cursor: CursorWrapper, names: Sequence[str]) -> dict[str, _CursorRow]:
    """The cursors of the outboxes, locked for this transaction; without those that another dispatcher has."""
    cursor.execute(
        "SELECT outbox, seen::text, target::text, page_xid::text, page_id, is_rewound "
        "FROM pipeline_cursor WHERE outbox = ANY(%s) FOR UPDATE SKIP LOCKED",
        [list(names)],
    )
    return {
        name: _CursorRow(
            Snapshot.parse(seen), target, None if page_xid is None else Position(int(page_xid), page_id), is_rewound
        )
        for name, seen, target, page_xid, page_id, is_rewound in cursor.fetchall()
    }


def _rewind(model: type[Outbox]) -> None:
    """After a restore into another cluster: its transaction ids are not those that the cursor has seen.

    The restored rows' own xids mean nothing here. Those this cluster has not reached yet would stay invisible to the
    snapshot until it does, so they get the xid of this transaction.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE pipeline_cursor AS c SET cluster = {_CLUSTER}, seen = '1:1:', target = NULL, page_xid = NULL,"
            f" page_id = NULL, is_rewound = true WHERE outbox = %s AND ({IS_OF_ANOTHER_CLUSTER})",
            [model.outbox_name()],
        )
        if cursor.rowcount:
            name = model.outbox_name()
            log.warning("cursor_rewound", outbox=name, action="dispatching again all rows that no open batch holds")
            table = connection.ops.quote_name(name)
            cursor.execute(
                f"UPDATE {table} SET xid = pg_current_xact_id()"
                f" WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()) AND {within_limits(model)}"
            )


def within_limits(model: type[Outbox]) -> str:
    """True of a row that may be updated: one of before the table's limits breaks them, and is a dead letter at best."""
    limits = [one for one in model._meta.constraints if isinstance(one, RowLimits)]
    # As in a constraint: unknown, because a column is NULL, is no breach.
    return f"({' AND '.join(condition for one in limits for condition in one.conditions) or 'true'}) IS NOT FALSE"


def _page_sql(model: type[Outbox]) -> str:
    """One page into batches, and the cursor forward, in one statement and so in one snapshot."""
    table = connection.ops.quote_name(model.outbox_name())
    size = f"octet_length(o.{connection.ops.quote_name(model.payload_column)})" if model.payload_column else "0"
    not_held = """(NOT %(is_rewound)s OR (
                  o.id NOT IN (SELECT unnest(ids) FROM pipeline_batch WHERE outbox = %(outbox)s)
                  AND o.id NOT IN (SELECT row_id FROM pipeline_deadletter WHERE outbox = %(outbox)s)))"""
    # Two range scans instead of one "not visible in seen": that one would pass over every dead row since the oldest
    # open transaction, each time.
    return f"""
WITH target AS MATERIALIZED (
    SELECT coalesce(%(target)s::pg_snapshot, pg_current_snapshot()) AS snapshot
), page AS MATERIALIZED (
    SELECT xid, id, bytes FROM (
        SELECT found.* FROM unnest(%(open_xids)s::xid8[], %(open_ids)s::bigint[]) AS open (xid, id)
        CROSS JOIN LATERAL (
            SELECT o.xid, o.id, {size} AS bytes FROM {table} AS o
            WHERE o.xid = open.xid AND o.id > open.id AND {not_held}
            ORDER BY o.id LIMIT %(max_rows)s
        ) AS found
        WHERE pg_visible_in_snapshot(open.xid, (SELECT snapshot FROM target))
        UNION ALL
        (
            SELECT o.xid, o.id, {size} AS bytes FROM {table} AS o
            WHERE (o.xid, o.id) > (%(tail_xid)s::xid8, %(tail_id)s::bigint)
              AND o.xid < (SELECT pg_snapshot_xmax(snapshot) FROM target)
              AND pg_visible_in_snapshot(o.xid, (SELECT snapshot FROM target)) AND {not_held}
            ORDER BY o.xid, o.id LIMIT %(max_rows)s
        )
    ) AS unseen
    ORDER BY xid, id LIMIT %(max_rows)s
), numbered AS (
    SELECT id, bytes, (row_number() OVER ordered - 1) / %(batch_ids)s
                      + (sum(bytes) OVER ordered) / %(batch_bytes)s AS part
    FROM page WINDOW ordered AS (ORDER BY xid, id ROWS UNBOUNDED PRECEDING)
), batches AS (
    INSERT INTO pipeline_batch (outbox, ids, rows, bytes, dispatched_at)
    SELECT %(outbox)s, array_agg(id), count(*), sum(bytes), clock_timestamp()
    FROM numbered GROUP BY part ORDER BY part
    RETURNING id, ids, bytes
), last_of_full AS (
    SELECT xid, id FROM page ORDER BY xid, id OFFSET %(max_rows)s - 1
), forward AS (
    UPDATE pipeline_cursor AS c SET
        seen = CASE WHEN last.id IS NULL THEN target.snapshot ELSE c.seen END,
        target = CASE WHEN last.id IS NULL THEN NULL ELSE target.snapshot END,
        page_xid = last.xid,
        page_id = last.id,
        is_rewound = c.is_rewound AND last.id IS NOT NULL,
        dispatched_at = clock_timestamp()
    FROM target LEFT JOIN last_of_full AS last ON true
    WHERE c.outbox = %(outbox)s
)
SELECT id, ids, bytes, EXISTS (SELECT FROM last_of_full) FROM batches ORDER BY id
"""


def _news_sql(outboxes: Iterable[str], *, cluster: int) -> str:
    """For each outbox, what a tick must know: two probes of its index, an unfinished run of pages, a rewound cursor.

    The rows and the snapshots they are compared with are read in one statement: in two, a cursor that another
    dispatcher moves in between would look rewound.
    """
    tables = {"'" + name.replace("'", "''") + "'": connection.ops.quote_name(name) for name in outboxes}
    probes = " ".join(
        f"WHEN {name} THEN EXISTS (SELECT FROM {table} AS o WHERE o.xid >= c.next_xid)"
        f" OR EXISTS (SELECT FROM {table} AS o WHERE o.xid = ANY (c.open_xids))"
        for name, table in tables.items()
    )
    # What the probes need of a snapshot is taken from it once (OFFSET 0), and the cluster's identifier is read once
    # for a connection (from a file): with fifty outboxes, either would cost as much as all the probes.
    return f"""
SELECT c.outbox, c.target IS NOT NULL OR CASE c.outbox {probes} END,
       c.cluster <> '{cluster}' OR pg_snapshot_xmax(pg_current_snapshot()) < c.next_xid
FROM (SELECT outbox, target, cluster, pg_snapshot_xmax(seen) AS next_xid,
             ARRAY(SELECT pg_snapshot_xip(seen)) AS open_xids
      FROM pipeline_cursor WHERE outbox IN ({", ".join(tables)}) OFFSET 0) AS c
"""
