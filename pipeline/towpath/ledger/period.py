"""The ledger of a period: how many rows were dispatched in it, and where they are, all of one moment.

A row belongs to the period in which it was dispatched; a dead letter to that in which it was refused.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import connection

from towpath.ledger.batches import BATCHES
from towpath.ledger.moment import one_moment
from towpath.ledger.receipts import OF_PERIOD

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


@dataclass(slots=True)
class RowCounts:
    """The rows of one outbox in a period.

    `sealed` is what the seal fixed, without what its windows gave on at the ack: to dead letters, and to windows of
    their own. What the ack fixed of them is `delivered` and `vanished`.
    """

    sealed: int = 0
    delivered: int = 0
    vanished: int = 0
    in_flight: int = 0
    dead: int = 0
    pending: int = 0


def read_row_counts(
    *, since: datetime, until: datetime, outboxes: Sequence[str], is_with_pending: bool
) -> dict[str, RowCounts]:
    """By outbox, of the rows dispatched from `since` to before `until`; and those that are not dispatched yet."""
    found: defaultdict[str, RowCounts] = defaultdict(RowCounts)
    for name in outboxes:
        found[name] = RowCounts()
    period = {"since": since, "until": until}
    with one_moment(by_index=False) as cursor:
        cursor.execute(_OF_RECEIPTS, period)
        for name, sealed, delivered, vanished in cursor.fetchall():
            found[name] = RowCounts(sealed=int(sealed), delivered=int(delivered), vanished=int(vanished))
        cursor.execute(_IN_FLIGHT, period)
        for name, rows in cursor.fetchall():
            found[name].in_flight = int(rows)
        cursor.execute(_DEAD, period)
        for name, rows in cursor.fetchall():
            found[name].dead = int(rows)
        for name in outboxes if is_with_pending else ():
            cursor.execute(_PENDING.format(table=connection.ops.quote_name(name)), {"outbox": name})
            found[name].pending = int(cursor.fetchone()[0])
    return dict(found)


_OF_RECEIPTS = f"""
SELECT outbox,
       sum(sealed::bigint - coalesce((refused ->> outbox)::bigint, 0) - coalesce((isolated ->> outbox)::bigint, 0)),
       sum(coalesce((delivered ->> outbox)::bigint, 0)),
       sum(coalesce((vanished ->> outbox)::bigint, 0))
FROM pipeline_window, jsonb_each_text(rows) AS by_outbox (outbox, sealed)
WHERE acked_at IS NOT NULL AND {OF_PERIOD} GROUP BY outbox
"""
_IN_FLIGHT = f"""
SELECT outbox, sum(rows) FROM {BATCHES} AS b
WHERE dispatched_at >= %(since)s AND dispatched_at < %(until)s GROUP BY outbox
"""
_DEAD = """
SELECT outbox, count(*) FROM pipeline_deadletter WHERE at >= %(since)s AND at < %(until)s GROUP BY outbox
"""
#: Rows that are neither in a batch nor dead letters.
_PENDING = f"""
SELECT (SELECT count(*) FROM {{table}})
       - (SELECT coalesce(sum(rows), 0) FROM {BATCHES} AS b WHERE outbox = %(outbox)s)
       - (SELECT count(*) FROM pipeline_deadletter WHERE outbox = %(outbox)s)
"""
