"""Windows as they finish, for a person who watches them or their events.

No window is left out, however late it is acked. Windows overtake each other, so `written_at` of the event store would
not do: a row that was written earlier may become visible later.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from towpath import driver
from towpath.ledger.marks import INDEX_PROBES_ONLY, value_of

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping, Sequence
    from datetime import datetime

#: The time of an ack is taken before its commit, at most this long.
_COMMITTED_WITHIN = timedelta(seconds=2)
#: The most windows of one look. If there are as many, older ones may be left out.
MOST_WINDOWS = 500
#: The most late windows that a place knows of. As many are open only in an outage.
MOST_LATE = 100
#: The most seen windows that a place knows of. If more were acked within _COMMITTED_WITHIN, older ones come twice.
MOST_SEEN = 100


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
    #: The numbers of windows that were seen, and acked so late that the next look finds them again: the newest first.
    seen: tuple[int, ...] = ()


#: All windows from a number on, and the late ones.
_FROM = """
    SELECT * FROM pipeline_window WHERE number >= {number} AND NOT is_late
    UNION ALL
    SELECT * FROM pipeline_window WHERE is_late
"""


def here() -> Place:
    """Return where the ledger is now. A read of the event store after that sees the windows acked before."""
    with driver.cursor() as cursor:
        # One statement, so that a window becomes late either in both parts or in none.
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT {value_of("windows")}, statement_timestamp(), ARRAY(
                SELECT number FROM pipeline_window WHERE is_late AND acked_at IS NULL
                ORDER BY number LIMIT %(most_late)s
            ), ARRAY(
                SELECT number FROM ({_FROM.format(number=value_of("windows"))}) AS w
                WHERE acked_at > statement_timestamp() - make_interval(secs => %(within)s)
                ORDER BY acked_at DESC LIMIT %(most_seen)s
            )
            """,
            {"most_late": MOST_LATE, "most_seen": MOST_SEEN, "within": _COMMITTED_WITHIN.total_seconds()},
        )
        number, now, late, seen = cursor.fetchone()
        return Place(number, now, tuple(late), tuple(seen))


def finished_since(place: Place) -> tuple[Sequence[FinishedWindow], Place]:
    """Return the windows acked since then, in that order, and where the ledger is now.

    A window comes twice only if more than MOST_SEEN were acked within _COMMITTED_WITHIN.
    """
    # Read before the look: what was open then, and is acked before the look, the look finds.
    now = here()
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT number, id, acked_at, extract(epoch FROM acked_at - dispatched_from)::float8, attempts, delivered,
                   refused, vanished
            FROM (
                {_FROM.format(number="%(number)s")}
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
                "within": _COMMITTED_WITHIN.total_seconds(),
                "most": MOST_WINDOWS + len(place.seen),
            },
        )
        found = {
            number: FinishedWindow(
                id_, at, seconds, attempts, *(json.loads(rows) if rows else {} for rows in by_outbox)
            )
            for number, id_, at, seconds, attempts, *by_outbox in cursor.fetchall()
        }
    later = max([place.acked_at, *(window.acked_at for window in found.values())])
    new = [window for number, window in found.items() if number not in place.seen][:MOST_WINDOWS]
    # The next look finds these again.
    again = [number for number, window in found.items() if window.acked_at > later - _COMMITTED_WITHIN]
    return new[::-1], replace(now, acked_at=later, seen=tuple(again[:MOST_SEEN]))
