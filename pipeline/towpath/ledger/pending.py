"""Undelivered rows, for people and probes: how many are pending, and which is the oldest.

Pending are the rows that are visible and that the cursor has not put into a batch. They are counted from the cursor's
position on, by the index on (xid, id): what lies before it is delivered or in flight, and mostly dead. A row that is
pending is in no batch and no dead letter, so that the three never count one twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import connection

from towpath import driver
from towpath.ledger import cursors
from towpath.ledger.batches import BATCHES
from towpath.ledger.cursors import NOT_HELD, by_xid
from towpath.ledger.marks import INDEX_PROBES_ONLY
from towpath.ledger.snapshot import Position, Snapshot, unseen

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from towpath.outbox.models import Outbox

#: Somebody may have deleted a row since it was dispatched: then the next one is the oldest of its batch.
_FIRST_IDS = 8


@dataclass(frozen=True, slots=True)
class PendingRows:
    """Rows that no batch holds yet, counted up to a limit; and the ids of the first of each run of pages."""

    rows: int
    first_ids: Sequence[int]


def read_pending(model: type[Outbox], *, counted_rows: int) -> PendingRows:
    """Return the pending rows of an outbox, at most `counted_rows` of them.

    In a transaction in which all is of one snapshot; cursor and rows are of two moments otherwise.
    """
    outbox = model.outbox_name()
    pieces, leaves_out_held = _read_pieces(outbox)
    with driver.cursor() as cursor:
        cursor.execute(
            _pending_sql(outbox),
            {
                "outbox": outbox,
                "leaves_out_held": leaves_out_held,
                "limit": counted_rows,
                **_stretches(pieces),
            },
        )
        rows, first_ids = cursor.fetchone()
    return PendingRows(rows, first_ids or ())


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows that `target` shows and `seen` does not, after `page`. Without a target: those that are visible now."""

    seen: Snapshot
    target: str | None = None
    page: Position | None = None


#: Before the first look, and after a restore.
_ALL = _Piece(Snapshot(1, 1, ()))


def _read_pieces(outbox: str) -> tuple[list[_Piece], bool]:
    """What the cursor has still before it; and True if what else holds a row leaves it out."""
    cursor = cursors.read(outbox, is_locked=False)
    if cursor is None:
        return [_ALL], True
    pieces = [_Piece(run.seen, str(run.target), run.page) for run in cursor.runs]
    return [*pieces, _Piece(cursor.seen)], any(run.is_rewound for run in cursor.runs)


def _stretches(pieces: Sequence[_Piece]) -> dict[str, Any]:
    """The ranges of the index in which each piece's rows are, as parameters."""
    open_transactions, tails = [], []
    for number, piece in enumerate(pieces):
        stretches = unseen(piece.seen, piece.page)
        open_transactions += [(number, start, piece.target) for start in stretches.open_transactions]
        tails.append((number, stretches.tail, piece.target))
    return {
        f"{name}_{column}": values
        for name, found in (("open", open_transactions), ("tail", tails))
        for column, values in (
            ("pieces", [number for number, _, _ in found]),
            ("xids", [str(start.xid) for _, start, _ in found]),
            ("ids", [start.id for _, start, _ in found]),
            ("targets", [target for _, _, target in found]),
        )
    }


def _pending_sql(outbox: str) -> str:
    rows = by_xid(outbox)
    not_held = f"(NOT %(leaves_out_held)s OR {NOT_HELD})"
    stretches = {
        name: f"""unnest(%({name}_pieces)s::int[], %({name}_xids)s::xid8[], %({name}_ids)s::bigint[],
                         %({name}_targets)s::pg_snapshot[]) AS given (piece, xid, id, target)
            CROSS JOIN LATERAL (SELECT coalesce(target, pg_current_snapshot()) AS until) AS target"""
        for name in ("open", "tail")
    }
    return f"""{INDEX_PROBES_ONLY}
WITH pending AS MATERIALIZED (
    SELECT * FROM (
        SELECT piece, found.* FROM {stretches["open"]}
        CROSS JOIN LATERAL (
            SELECT o.xid, o.id FROM {rows} AS o WHERE o.xid = given.xid AND o.id > given.id AND {not_held}
            ORDER BY o.id LIMIT %(limit)s
        ) AS found
        WHERE pg_visible_in_snapshot(given.xid, until)
        UNION ALL
        SELECT piece, found.* FROM {stretches["tail"]}
        CROSS JOIN LATERAL (
            SELECT o.xid, o.id FROM {rows} AS o
            WHERE (o.xid, o.id) > (given.xid, given.id) AND o.xid < pg_snapshot_xmax(until)
              AND pg_visible_in_snapshot(o.xid, until) AND {not_held}
            ORDER BY o.xid, o.id LIMIT %(limit)s
        ) AS found
    ) AS found LIMIT %(limit)s
)
SELECT (SELECT count(*) FROM pending),
       (SELECT array_agg(id) FROM (SELECT DISTINCT ON (piece) id FROM pending ORDER BY piece, xid, id) AS first)
"""


@dataclass(frozen=True, slots=True)
class OldestBatch:
    """Of the batches of an outbox, the one that was dispatched first: its first row ids, and when that was."""

    first_ids: Sequence[int]
    dispatched_at: datetime


def read_oldest_batches() -> dict[str, OldestBatch]:
    """Return the oldest batch of each outbox that has any. Back-pressure bounds them, so all are read."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT outbox, ids[1:%(first)s], dispatched_at FROM pipeline_batch WHERE id = ANY(ARRAY(
                SELECT DISTINCT ON (outbox) id FROM {BATCHES} AS b ORDER BY outbox, dispatched_at, id
            ))
            """,
            {"first": _FIRST_IDS},
        )
        return {outbox: OldestBatch(ids, dispatched_at) for outbox, ids, dispatched_at in cursor.fetchall()}


def first_transaction_in_flight(outbox: str) -> int | None:
    """Return the lowest transaction of the batches' first rows; None if there are none, or these rows are gone."""
    with driver.cursor() as cursor:
        # Not that of the oldest batch: a page of a run can be younger than a batch of what was new beside it.
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT xid::text FROM (
                SELECT o.xid FROM {BATCHES} AS b CROSS JOIN LATERAL (
                    SELECT xid FROM {connection.ops.quote_name(outbox)} WHERE id = b.ids[1] OFFSET 0
                ) AS o WHERE b.outbox = %(outbox)s OFFSET 0
            ) AS first ORDER BY xid LIMIT 1
            """,
            {"outbox": outbox},
        )
        found = cursor.fetchone()
    return None if found is None else int(found[0])
