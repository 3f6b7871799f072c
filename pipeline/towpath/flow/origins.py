"""Origins: some of the batches of a window, and of the requests that published its events, for the window's span."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError, connection

from towpath import driver
from towpath.ledger.batches import first_ids
from towpath.telemetry.tracing import Origins

if TYPE_CHECKING:
    from towpath.ledger.windows import SealedWindow

#: The most links of one window's span.
MOST_BATCHES = 32
MOST_REQUESTS = 32
#: Rows of a batch whose request is looked up.
_ROWS_OF_A_BATCH = 4


def origins(window: SealedWindow) -> Origins:
    """Return a sample of what the window carries; empty if PostgreSQL does not answer."""
    try:
        return _sample(window)
    except (DatabaseError, InterfaceError):
        # A trace is not worth a failed delivery. The load, which comes next, says what is wrong.
        connection.close()
        return Origins((), ())


def _sample(window: SealedWindow) -> Origins:
    batches = first_ids(window.id, batches=MOST_BATCHES, ids_of_each=_ROWS_OF_A_BATCH)
    sample: defaultdict[str, list[int]] = defaultdict(list)
    for batch in batches:
        sample[batch.outbox] += batch.ids
    traceparents: list[str] = []
    with driver.cursor() as cursor:
        for outbox, ids in sample.items():
            cursor.execute(
                f"""
                SELECT DISTINCT bound ->> 'traceparent' FROM {connection.ops.quote_name(outbox)}
                WHERE id = ANY(%(ids)s) AND bound ->> 'traceparent' IS NOT NULL LIMIT %(limit)s
                """,
                {"ids": ids, "limit": MOST_REQUESTS // len(sample)},
            )
            traceparents += [traceparent for (traceparent,) in cursor.fetchall()]
    return Origins([batch.id for batch in batches], traceparents)
