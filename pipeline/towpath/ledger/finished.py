"""Windows as they finish, for a person who watches."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from towpath import driver
from towpath.ledger.marks import INDEX_PROBES_ONLY, value_of

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping, Sequence
    from datetime import datetime

#: The time of an ack is taken before its commit, at most this long.
_COMMITTED_WITHIN_SECONDS = 2.0
#: The most windows of one look. If there are more, the oldest are not shown.
_MOST = 500


@dataclass(frozen=True, slots=True)
class FinishedWindow:
    """A window that was acked: what became of its rows, and how long it took from its first dispatch."""

    id: uuid.UUID
    acked_at: datetime
    seconds: float
    attempts: int
    delivered: Mapping[str, int]
    refused: Mapping[str, int]
    vanished: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Place:
    """How far a watcher has seen: below this number, and up to this time, all windows were acked."""

    number: int
    acked_at: datetime


def here() -> Place:
    """Return where the ledger is now."""
    with driver.cursor() as cursor:
        cursor.execute(f"SELECT {value_of('windows')}, statement_timestamp()")
        return Place(*cursor.fetchone())


def finished_since(place: Place) -> tuple[Sequence[FinishedWindow], Place]:
    """Return the windows acked since then, in that order, and where the ledger is now. A window may come twice."""
    # Read before the look: a window below this mark was acked, so the look finds it.
    number = here().number
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT id, acked_at, extract(epoch FROM acked_at - dispatched_from)::float8, attempts, delivered, refused,
                   vanished
            FROM (
                SELECT * FROM pipeline_window WHERE number >= %(number)s AND NOT is_late
                UNION ALL
                SELECT * FROM pipeline_window WHERE is_late
            ) AS w
            WHERE acked_at > %(since)s - make_interval(secs => %(within)s) ORDER BY acked_at DESC LIMIT %(most)s
            """,
            {
                "number": place.number,
                "since": place.acked_at,
                "within": _COMMITTED_WITHIN_SECONDS,
                "most": _MOST,
            },
        )
        found = [
            FinishedWindow(id_, at, seconds, attempts, *(json.loads(rows) if rows else {} for rows in by_outbox))
            for id_, at, seconds, attempts, *by_outbox in cursor.fetchall()
        ]
    later = max([place.acked_at, *(window.acked_at for window in found)])
    return found[::-1], Place(number, later)
