"""How many transactions ago a time was, from receipts: PostgreSQL itself keeps no time of a transaction.

A row of PostgreSQL knows the transaction that wrote it last (`xmin`), and a verified receipt knows when that was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from towpath import driver

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The first time that is asked for, and how often it is doubled: up to twenty-eight days.
_FIRST_SECONDS, _DOUBLINGS = 600, 12

#: Receipts that are looked at for each time. They were verified late if none of them is old enough.
_RECEIPTS = 20


@dataclass(frozen=True, slots=True)
class Age:
    """A transaction that ended so many seconds ago, and how many transactions have begun since."""

    seconds: float
    transactions: int


def read_ages() -> Sequence[Age]:
    """Return an age for ten minutes ago, twenty, forty and so on, as far as receipts go back; the youngest first.

    Each is of the newest receipt that is older. A few look-ups in an index, however many receipts there are.
    """
    with driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT DISTINCT extract(epoch FROM statement_timestamp() - verified_at)::float8 AS seconds, transactions
            FROM generate_series(0, %(doublings)s) AS doubled
            CROSS JOIN LATERAL (
                SELECT statement_timestamp() - make_interval(secs => %(first)s * 2 ^ doubled) AS time
            ) AS asked
            CROSS JOIN LATERAL (
                SELECT verified_at, age(w.xmin) AS transactions FROM (
                    SELECT xmin, dispatched_from, verified_at, closed_reason, is_late FROM pipeline_window
                    WHERE dispatched_from < asked.time ORDER BY dispatched_from DESC LIMIT %(receipts)s
                ) AS w
                -- Of others, the row was written again after that: a closed alarm, say, at a time that is not recorded.
                WHERE verified_at < asked.time AND closed_reason = '' AND NOT is_late
                ORDER BY dispatched_from DESC LIMIT 1
            ) AS receipt
            ORDER BY seconds
            """,
            {"first": _FIRST_SECONDS, "doublings": _DOUBLINGS, "receipts": _RECEIPTS},
        )
        return [Age(*row) for row in cursor.fetchall()]
