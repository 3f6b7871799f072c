"""Which windows were acknowledged lately: what a live tail follows.

It does not use the event store's `written_at`, because windows overtake each other: a row that was written earlier may
become visible later.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from towpath import driver

if TYPE_CHECKING:
    from datetime import datetime

#: The time of an ack is taken before its commit. Within this overlap, a window may be reported twice, but none is left
#: out.
OVERLAP = timedelta(seconds=5)
#: How many of the last sealed windows are looked at. Acks have no index: each of them would have to pay for it.
_LOOKED_AT = 2_000
_MOST = 100


def acked_since(moment: datetime) -> list[UUID]:
    """Return the newest windows (at most 100) acknowledged since a moment of the database's clock, less OVERLAP."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT id FROM pipeline_window
            WHERE number > (SELECT coalesce(max(number), 0) FROM pipeline_window) - %(looked_at)s
            AND acked_at > %(moment)s ORDER BY acked_at DESC LIMIT %(most)s
            """,
            {"looked_at": _LOOKED_AT, "moment": moment - OVERLAP, "most": _MOST},
        )
        return [window for (window,) in cursor.fetchall()]
