"""Origins: some of the batches of a window, and of the requests that published its events, for the window's span."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError, connection

from towpath.telemetry.tracing import Origins

if TYPE_CHECKING:
    from towpath.ledger.windows import SealedWindow

#: What one window's span links to, at most.
MOST_BATCHES = 32
MOST_REQUESTS = 32
#: Rows of a batch whose request is looked up.
_ROWS_OF_A_BATCH = 4


def origins(window: SealedWindow) -> Origins:
    """A sample of what the window carries; empty when PostgreSQL does not answer."""
    try:
        return _sample(window)
    except (DatabaseError, InterfaceError):
        # A trace is not worth a delivery; the load, which comes next, says what is wrong.
        connection.close()
        return Origins((), ())


def _sample(window: SealedWindow) -> Origins:
    batches: list[int] = []
    traceparents: list[str] = []
    sample: defaultdict[str, list[int]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT id, outbox, ids[1:%(rows)s] FROM pipeline_batch WHERE window_id = %(window)s
            ORDER BY id LIMIT %(limit)s
            """,
            {"rows": _ROWS_OF_A_BATCH, "window": window.id, "limit": MOST_BATCHES},
        )
        for batch, outbox, ids in cursor.fetchall():
            batches.append(batch)
            sample[outbox] += ids
        for outbox, ids in sample.items():
            cursor.execute(
                f"""
                SELECT DISTINCT bound ->> 'traceparent' FROM {connection.ops.quote_name(outbox)}
                WHERE id = ANY(%(ids)s) AND bound ->> 'traceparent' IS NOT NULL LIMIT %(limit)s
                """,
                {"ids": ids, "limit": MOST_REQUESTS // len(sample)},
            )
            traceparents += [traceparent for (traceparent,) in cursor.fetchall()]
    return Origins(batches, traceparents)
