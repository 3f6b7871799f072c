"""Stranded rows: undelivered, and no cursor will ever see them. They are found here, and brought back.

A row keeps the transaction id that it comes with. One from a dump, from `INSERT ... SELECT`, COPY or a subscription
can have that of a transaction which the cursor has passed, or of one that is still to come. What is found
is exact: in one snapshot, a row that the cursor has seen is in a batch, is a dead letter, or is stranded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from django.db import connection, transaction
from django.db.models import TextField
from django.db.models.functions import Cast

from towpath.flow.dispatch import IS_OF_ANOTHER_CLUSTER, within_limits
from towpath.flow.snapshot import Snapshot, passed
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from django.db.backends.utils import CursorWrapper

    from towpath.outbox.models import Outbox

log = structlog.get_logger()

#: Counted up to here, so that a look costs the same with ten rows and with ten million.
_MOST_COUNTED = 10_000
#: Rows of one transaction.
_ROWS_PER_STEP = 10_000

#: Enough for a hashed list of every id that can be in flight: without it, PostgreSQL would read the list for each row.
_ROOM_FOR_A_HASH = "SET LOCAL work_mem = '64MB'"


@dataclass(frozen=True, slots=True)
class Stranded:
    """Rows of one outbox; `rows` at most the number that is counted, `oldest` the time of the first event."""

    outbox: str
    rows: int
    oldest: str

    def problem(self) -> str:
        """For `status`: what it is, why, and the command."""
        count = f"{self.rows:,} or more" if self.rows >= _MOST_COUNTED else f"{self.rows:,}"
        return (
            f"{self.outbox}: {count} row(s) are never dispatched, the first of {self.oldest}: their xid was not given"
            " by PostgreSQL when they were inserted (a dump, INSERT ... SELECT, COPY, replication)."
            " Run `python manage.py pipeline recover`, or delete those that are stored already"
        )


def find(cursor: CursorWrapper, model: type[Outbox]) -> Stranded | None:
    """The stranded rows of an outbox; None when there are none. For a transaction in which all is of one snapshot."""
    seen = _seen(cursor, model, lock="")
    if seen is None:
        return None
    cursor.execute(_ROOM_FOR_A_HASH)
    cursor.execute(
        f"SELECT count(*), (array_agg(id))[1] FROM ({_rows_sql(model)}) AS stranded",
        _parameters(model, seen, limit=_MOST_COUNTED),
    )
    count, first = cursor.fetchone()
    if not count:
        return None
    # As text: PostgreSQL knows times that Python does not.
    at = Cast(model.event_columns()["event_date_time"], TextField())
    oldest = model._base_manager.using(connection.alias).filter(id=first).values_list(at, flat=True).first()
    return Stranded(model.outbox_name(), count, oldest or "an unknown time")


def bring_back() -> dict[str, int]:
    """Let the dispatcher see the stranded rows of every outbox, once; how many, by outbox.

    They get the xid of the transaction that does it. Its lock is that of the cursor: neither the dispatcher nor another
    of these commands is at the outbox meanwhile.
    """
    found: dict[str, int] = {}
    for name, model in all_outboxes().items():
        while rows := _bring_back_some(model):
            found[name] = found.get(name, 0) + rows
    for name, rows in found.items():
        log.warning("rows_brought_back", outbox=name, rows=rows)
    return found


def _bring_back_some(model: type[Outbox]) -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        # In a statement of its own: the snapshot of the next one must be younger than the cursor that it starts from.
        seen = _seen(cursor, model, lock="FOR UPDATE OF c")
        if seen is None:
            return 0
        cursor.execute(_ROOM_FOR_A_HASH)
        cursor.execute(_rows_sql(model), _parameters(model, seen, limit=_ROWS_PER_STEP))
        ids = [id_ for (id_,) in cursor.fetchall()]
        table = connection.ops.quote_name(model.outbox_name())
        # No event store takes those that break the limits, which the table may have got later than them.
        cursor.execute(
            "INSERT INTO pipeline_deadletter (outbox, row_id, error, window_id, at)"
            f" SELECT %s, id, %s, %s, clock_timestamp() FROM {table}"
            f" WHERE id = ANY(%s) AND NOT ({within_limits(model)})",
            [model.outbox_name(), "it breaks the limits of its table", UUID(int=0), ids],
        )
        moved = cursor.rowcount
        cursor.execute(
            f"UPDATE {table} SET xid = pg_current_xact_id() WHERE id = ANY(%s) AND {within_limits(model)}", [ids]
        )
        return int(moved + cursor.rowcount)


def _seen(cursor: CursorWrapper, model: type[Outbox], *, lock: str) -> Snapshot | None:
    """What the cursor has seen; None when it looks at all rows anyway: before the first look, and after a restore."""
    cursor.execute(
        f"SELECT c.seen::text FROM pipeline_cursor AS c"
        f" WHERE c.outbox = %s AND NOT c.is_rewound AND NOT ({IS_OF_ANOTHER_CLUSTER}) {lock}",
        [model.outbox_name()],
    )
    found = cursor.fetchone()
    return None if found is None else Snapshot.parse(found[0])


def _rows_sql(model: type[Outbox]) -> str:
    table = connection.ops.quote_name(model.outbox_name())
    not_held = """o.id NOT IN (SELECT unnest(ids) FROM pipeline_batch WHERE outbox = %(outbox)s)
              AND o.id NOT IN (SELECT row_id FROM pipeline_deadletter WHERE outbox = %(outbox)s)"""
    # As ranges of the index: those that wait, a million of them perhaps, are not among them. A row that a snapshot
    # shows is of a transaction below its xmax; what lies above has a false xid, but for rows of this very transaction.
    return f"""
SELECT id FROM (
    SELECT found.id, found.xid FROM unnest(%(after_xids)s::xid8[], %(after_ids)s::bigint[], %(before_xids)s::xid8[])
        AS passed (after_xid, after_id, before_xid)
    CROSS JOIN LATERAL (
        SELECT o.id, o.xid FROM {table} AS o
        WHERE (o.xid, o.id) > (passed.after_xid, passed.after_id) AND o.xid < passed.before_xid AND {not_held}
        ORDER BY o.xid, o.id LIMIT %(limit)s
    ) AS found
    UNION ALL
    (
        SELECT o.id, o.xid FROM {table} AS o
        WHERE o.xid >= pg_snapshot_xmax(pg_current_snapshot())
          AND o.xid IS DISTINCT FROM pg_current_xact_id_if_assigned() AND {not_held}
        ORDER BY o.xid, o.id LIMIT %(limit)s
    )
) AS passed_and_to_come
ORDER BY xid, id LIMIT %(limit)s"""


def _parameters(model: type[Outbox], seen: Snapshot, *, limit: int) -> dict[str, Any]:
    ranges = list(passed(seen))
    return {
        "outbox": model.outbox_name(),
        "after_xids": [str(after.xid) for after, _ in ranges],
        "after_ids": [after.id for after, _ in ranges],
        "before_xids": [str(before) for _, before in ranges],
        "limit": limit,
    }
