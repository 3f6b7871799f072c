"""Windows as they finish, for a person who watches them or their events.

No window is left out, however late it is acked. Windows overtake each other, so `written_at` of the event store would
not do: a row that was written earlier may become visible later.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from towpath import driver
from towpath.ledger.marks import INDEX_PROBES_ONLY, value_of

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping, Sequence
    from datetime import datetime

#: The time of an ack is taken before its commit, at most this long.
_COMMITTED_WITHIN_SECONDS = 2.0
#: The most windows of one look. If there are as many, older ones may be left out.
MOST_WINDOWS = 500
#: The most late windows that a place knows of. As many are open only in an outage.
MOST_LATE = 100


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
    """How far a watcher has seen: below this number, and up to this time, all windows were acked, but for the late."""

    number: int
    acked_at: datetime
    #: The numbers of late windows that were open. The flag alone does not find them: verifying takes it away, and may
    #: follow the ack before the next look.
    late: tuple[int, ...] = ()


def here() -> Place:
    """Return where the ledger is now."""
    with driver.cursor() as cursor:
        # One statement, so that a window becomes late either in both parts or in none.
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT {value_of("windows")}, statement_timestamp(), ARRAY(
                SELECT number FROM pipeline_window WHERE is_late AND acked_at IS NULL ORDER BY number LIMIT %(most)s
            )
            """,
            {"most": MOST_LATE},
        )
        number, now, late = cursor.fetchone()
        return Place(number, now, tuple(late))


def finished_since(place: Place) -> tuple[Sequence[FinishedWindow], Place]:
    """Return the windows acked since then, in that order, and where the ledger is now. A window may come twice."""
    # Read before the look: what was open then, and is acked before the look, the look finds.
    now = here()
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT id, acked_at, extract(epoch FROM acked_at - dispatched_from)::float8, attempts, delivered, refused,
                   vanished
            FROM (
                SELECT * FROM pipeline_window WHERE number >= %(number)s AND NOT is_late
                UNION ALL
                SELECT * FROM pipeline_window WHERE is_late
                UNION ALL
                SELECT * FROM pipeline_window
                WHERE number = ANY(%(late)s::bigint[]) AND number < %(number)s AND NOT is_late
            ) AS w
            WHERE acked_at > %(since)s - make_interval(secs => %(within)s) ORDER BY acked_at DESC LIMIT %(most)s
            """,
            {
                "number": place.number,
                "late": list(place.late),
                "since": place.acked_at,
                "within": _COMMITTED_WITHIN_SECONDS,
                "most": MOST_WINDOWS,
            },
        )
        found = [
            FinishedWindow(id_, at, seconds, attempts, *(json.loads(rows) if rows else {} for rows in by_outbox))
            for id_, at, seconds, attempts, *by_outbox in cursor.fetchall()
        ]
    later = max([place.acked_at, *(window.acked_at for window in found)])
    return found[::-1], replace(now, acked_at=later)
