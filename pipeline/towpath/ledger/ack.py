"""Ack: the end of a window, and its receipt.

One commit, fenced by the lease: the rows that the event store has are deleted from their outbox, and the window's
receipt stays. An owner that has lost its lease deletes nothing. If the power fails before the commit, the window is
replayed and found written. At no moment is a row in neither place.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from typing import TYPE_CHECKING

from django.db import connection, transaction

from towpath import driver
from towpath.errors import LeaseLost
from towpath.ledger.marks import INDEX_PROBES_ONLY, INSERTING_BATCHES, INSERTING_WINDOWS
from towpath.ledger.windows import HELD, MAY_BE_LOST, new_window_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from django.db.backends.utils import CursorWrapper

    from towpath.ledger.windows import RefusedRow, SealedWindow


def ack(
    window: SealedWindow,
    *,
    delivered: Mapping[str, int],
    vanished: Mapping[str, int] | None = None,
    refused: Sequence[RefusedRow] = (),
    left: Sequence[tuple[str, int]] = (),
    error: str = "",
    loaded: str = "",
) -> None:
    """Delete the window's outbox rows and batches and leave its receipt.

    Call it only after the store has the rows on disk. Refused rows stay in their outbox, as dead letters. So do the
    rows that are left: for each outbox they get a new window, which is tried again separately. `vanished` are the rows
    that were gone when the window was loaded. `error` is what the store said about refused or left rows, or an error
    despite which it stored everything. `loaded` says what was loaded (`towpath.ledger.loaded`), for a window that was
    written as it was.

    Raises LeaseLost; then nothing has been deleted.
    """
    kept: dict[str, list[int]] = {}
    for outbox, row_id in (*((row.outbox, row.row_id) for row in refused), *left):
        kept.setdefault(outbox, []).append(row_id)
    outboxes = list(enumerate(window.rows))
    deletes = "".join(
        f""", deleted_{n} AS (
                DELETE FROM {connection.ops.quote_name(window.renamed.get(outbox, outbox))} WHERE id = ANY(ARRAY(
                    SELECT unnest(ids) FROM batches WHERE outbox = %(outbox_{n})s
                    {f"EXCEPT SELECT unnest(%(kept_{n})s::bigint[])" if outbox in kept else ""}
                ))
            )"""
        for n, outbox in outboxes
    )
    with transaction.atomic() if left else contextlib.nullcontext(), driver.cursor() as cursor:
        if left:
            _isolate(cursor, window, left, error=error)
        cursor.execute(
            f"""{MAY_BE_LOST} {INDEX_PROBES_ONLY}
            WITH receipt AS MATERIALIZED (
                UPDATE pipeline_window SET
                    acked_at = clock_timestamp(), delivered = %(delivered)s, vanished = %(vanished)s,
                    refused = %(refused)s, isolated = %(isolated)s, store_error = %(error)s,
                    failed_at = NULL, last_error = '', loaded = decode(%(loaded)s, 'hex')
                WHERE {HELD} RETURNING id
            ), batches AS (
                DELETE FROM pipeline_batch WHERE window_id = (SELECT id FROM receipt) RETURNING outbox, ids
            ), dead AS (
                INSERT INTO pipeline_deadletter (outbox, row_id, error, window_id, at)
                SELECT refused.outbox, refused.row_id, refused.error, receipt.id, clock_timestamp()
                FROM receipt, unnest(
                    %(refused_outboxes)s::text[], %(refused_ids)s::bigint[], %(refused_errors)s::text[]
                ) AS refused (outbox, row_id, error)
                ON CONFLICT (outbox, row_id) DO UPDATE
                SET error = excluded.error, window_id = excluded.window_id, at = excluded.at
            ){deletes}
            SELECT count(*) FROM receipt
            """,
            {
                "window": window.id,
                "token": window.lease_token,
                "delivered": json.dumps(dict(delivered)),
                "vanished": _or_null(vanished or {}),
                "refused": _or_null(Counter(row.outbox for row in refused)),
                "isolated": _or_null(Counter(outbox for outbox, _ in left)),
                "error": "" if refused or left else error,
                "loaded": loaded or None,
                "refused_outboxes": [row.outbox for row in refused],
                "refused_ids": [row.row_id for row in refused],
                "refused_errors": [row.error for row in refused],
                **{f"outbox_{n}": outbox for n, outbox in outboxes},
                **{f"kept_{n}": kept.get(outbox) for n, outbox in outboxes},
            },
        )
        if cursor.fetchone() == (0,):
            raise LeaseLost


def _or_null(rows: Mapping[str, int]) -> str | None:
    """Nearly all windows have none of them."""
    return json.dumps(dict(rows)) if rows else None


def _isolate(cursor: CursorWrapper, window: SealedWindow, left: Sequence[tuple[str, int]], *, error: str) -> None:
    """Put the rows, none of which the store holds, into separate windows that are free to be claimed."""
    for outbox in dict.fromkeys(outbox for outbox, _ in left):
        ids = sorted(row_id for one, row_id in left if one == outbox)
        cursor.execute(
            f"""{INSERTING_WINDOWS} {INSERTING_BATCHES}
            WITH origin AS (
                SELECT bytes * %(count)s / %(total)s AS bytes, dispatched_from, dispatched_to
                FROM pipeline_window WHERE id = %(old)s
            ), created AS (
                INSERT INTO pipeline_window (id, lease_token, lease_until, attempts, failed_at, last_error, rows, bytes,
                                             sealed_at, dispatched_from, dispatched_to, is_isolated, is_late)
                SELECT %(new)s, %(new)s, clock_timestamp(), 0, clock_timestamp(), %(error)s,
                       jsonb_build_object(%(outbox)s::text, %(count)s), bytes, clock_timestamp(), dispatched_from,
                       dispatched_to, true, true
                FROM origin
            )
            INSERT INTO pipeline_batch (outbox, ids, rows, bytes, dispatched_at, window_id)
            SELECT %(outbox)s, %(ids)s, %(count)s, bytes, dispatched_from, %(new)s FROM origin
            """,
            {
                "old": window.id,
                "new": new_window_id(),
                "outbox": outbox,
                "ids": ids,
                "count": len(ids),
                "total": window.row_count,
                "error": f"isolated from other rows: {error}",
            },
        )
