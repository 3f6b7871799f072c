"""Receipts: what is left of a window that was acked, until it is purged.

A receipt says what was fixed at the seal, and what became of each row at the ack. It never changes; what is found out
about it later (that the store holds its rows, that it does not, that a person has closed the alarm) stands beside it.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from towpath import driver
from towpath.ledger.marks import INDEX_PROBES_ONLY, moment_of, move, value_of
from towpath.ledger.moment import count_or_estimate
from towpath.ledger.proofs import said_time
from towpath.ledger.windows import MAY_BE_LOST

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt as it was left by the ack: rows by outbox."""

    window: uuid.UUID
    number: int
    dispatched_at: datetime
    acked_at: datetime
    #: Fixed at the seal: of the payloads, by their sizes in the outboxes.
    bytes: int
    rows: Mapping[str, int]
    #: Fixed at the ack.
    delivered: Mapping[str, int]
    vanished: Mapping[str, int]
    refused: Mapping[str, int]
    isolated: Mapping[str, int]
    #: What was loaded (`towpath.ledger.loaded`), of a window that was written as it was; else empty.
    loaded: str
    #: Why a person has closed its alarm; empty: nobody has.
    closed_reason: str
    #: True if verification has found that the event store or its own numbers contradict it.
    is_alarm: bool

    def accounted(self) -> Counter[str]:
        """Of how many rows the ack says what became of them. Not so many as were sealed: the receipt is wrong."""
        found: Counter[str] = Counter()
        for part in (self.delivered, self.vanished, self.refused, self.isolated):
            found.update(part)
        return found


#: Receipts of one page, and so windows of one query to the event store.
_RECEIPTS_PER_PAGE = 300


#: Receipts that are not verified, as two tables, each to be read in the order of its numbers. Those that the event
#: store contradicts are late, and so are those of windows that were; all others are above the mark.
_UNVERIFIED_LATE = "pipeline_window WHERE is_late AND acked_at IS NOT NULL AND verified_at IS NULL"
_UNVERIFIED = f"""pipeline_window
    WHERE number >= {value_of("verified")} AND acked_at IS NOT NULL AND verified_at IS NULL AND NOT is_late"""

_COLUMNS = f"""id, number, {said_time("dispatched_from")}, {said_time("acked_at")},
    closed_reason, contradiction IS NOT NULL, bytes, coalesce(encode(loaded, 'hex'), ''),
    rows, delivered, vanished, refused, isolated"""


def unverified() -> Iterator[Sequence[Receipt]]:
    """The receipts that are not verified, page by page, in the order of the seals.

    To take the next page is to have recorded what was found out about the one before, verified or contradicted: below
    them, nobody looks again for any but late ones. If the power fails before that, they are all looked at again.
    """
    after, all_acked_below = -1, None
    while True:
        with driver.cursor() as cursor:
            cursor.execute(
                f"""{INDEX_PROBES_ONLY}
                SELECT {value_of("windows")}, {_COLUMNS} FROM (
                    (SELECT * FROM {_UNVERIFIED} AND number > %(after)s ORDER BY number LIMIT %(limit)s)
                    UNION ALL
                    (SELECT * FROM {_UNVERIFIED_LATE} AND number > %(after)s ORDER BY number LIMIT %(limit)s)
                ) AS unverified
                ORDER BY number LIMIT %(limit)s
                """,
                {"after": after, "limit": _RECEIPTS_PER_PAGE},
            )
            found = cursor.fetchall()
        if not found:
            return
        yield [_receipt(*row) for _, *row in found]
        after = found[-1][2]
        # As it was at the first page: a window below the mark of today may have been acked behind a later one.
        all_acked_below = found[0][0] if all_acked_below is None else all_acked_below
        _move_verified(min(all_acked_below, after + 1))


def _move_verified(number: int) -> None:
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{MAY_BE_LOST} {INDEX_PROBES_ONLY}
            WITH {move("verified", to=f"SELECT %(number)s::bigint WHERE %(number)s > {value_of('verified')}")} SELECT
            """,
            {"number": number},
        )


def of_period(since: datetime, until: datetime) -> Iterator[Sequence[Receipt]]:
    """The receipts of windows dispatched from `since` to before `until`, page by page, oldest first."""
    after: tuple[datetime, int] = (since, -1)
    while True:
        with driver.cursor() as cursor:
            cursor.execute(
                # What the planner does not know, it does not look up at the ends of the index.
                f"""{INDEX_PROBES_ONLY}
                SELECT {_COLUMNS} FROM pipeline_window
                WHERE acked_at IS NOT NULL AND dispatched_from < (SELECT %(until)s::timestamptz)
                  AND (dispatched_from, number) > ((SELECT %(time)s::timestamptz), %(number)s)
                ORDER BY dispatched_from, number LIMIT %(limit)s
                """,
                {"until": until, "time": after[0], "number": after[1], "limit": _RECEIPTS_PER_PAGE},
            )
            receipts = [_receipt(*row) for row in cursor.fetchall()]
        if not receipts:
            return
        yield receipts
        after = (receipts[-1].dispatched_at, receipts[-1].number)


def of_windows(windows: Sequence[uuid.UUID]) -> list[Receipt]:
    """The receipts of these windows, in the order of the seals."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""SELECT {_COLUMNS} FROM pipeline_window WHERE id = ANY(%(windows)s) AND acked_at IS NOT NULL
            ORDER BY number""",
            {"windows": list(windows)},
        )
        return [_receipt(*row) for row in cursor.fetchall()]


def find_unverified(*, older_than_seconds: float, limit: int) -> list[tuple[uuid.UUID, str]]:
    """Windows that were acked so long ago, or are said to be acked later than so long from now, and whose receipt is
    not verified; each with what contradicts it, if anything is known to."""
    with driver.cursor() as cursor:
        cursor.execute(
            """SELECT id, coalesce(contradiction, '') FROM pipeline_window
            WHERE verified_at IS NULL AND acked_at NOT BETWEEN
                statement_timestamp() - make_interval(secs => %(seconds)s)
                AND statement_timestamp() + make_interval(secs => %(seconds)s)
            ORDER BY number LIMIT %(limit)s""",
            {"seconds": older_than_seconds, "limit": limit},
        )
        return list(cursor.fetchall())


#: Windows that were dispatched in a period.
OF_PERIOD = "dispatched_from >= %(since)s AND dispatched_from < %(until)s"


def _receipt(*row: Any) -> Receipt:
    window, number, dispatched_at, acked_at, closed_reason, is_alarm, size, loaded, *rows = row
    sealed, delivered, vanished, refused, isolated = (json.loads(part or "{}") for part in rows)
    return Receipt(
        window=window,
        number=number,
        dispatched_at=dispatched_at,
        acked_at=acked_at,
        bytes=size,
        rows=sealed,
        delivered=delivered,
        vanished=vanished,
        refused=refused,
        isolated=isolated,
        loaded=loaded,
        closed_reason=closed_reason,
        is_alarm=is_alarm,
    )


def note_contradiction(window: uuid.UUID, contradiction: str) -> bool:
    """Record what is wrong with the receipt; True if that is news."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            UPDATE pipeline_window SET contradiction = %(contradiction)s, is_late = true
            WHERE id = %(window)s AND contradiction IS DISTINCT FROM %(contradiction)s
            """,
            {"window": window, "contradiction": contradiction},
        )
        return bool(cursor.rowcount)


#: SQL: true if receipts have waited for `%(seconds)s`, and nobody has compared them with the event store yet.
IS_OVERDUE = f"""EXISTS (
    SELECT FROM (
        (SELECT acked_at FROM {_UNVERIFIED} ORDER BY number LIMIT 1)
        UNION ALL
        SELECT acked_at FROM {_UNVERIFIED_LATE} AND contradiction IS NULL
    ) AS oldest
    WHERE acked_at < statement_timestamp() - make_interval(secs => %(seconds)s)
)"""


@dataclass(frozen=True, slots=True)
class ClosedAlarm:
    """What was wrong with a window whose alarm a person has closed."""

    window: uuid.UUID
    contradiction: str
    vanished: Mapping[str, int]


def close(windows: Sequence[uuid.UUID], *, reason: str) -> list[ClosedAlarm]:
    """End the alarms of those of the windows that are one: contradicted, or verified and with vanished rows."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            UPDATE pipeline_window SET
                verified_at = coalesce(verified_at, clock_timestamp()), is_late = false, closed_reason = %(reason)s
            WHERE id = ANY(%(windows)s) AND acked_at IS NOT NULL AND closed_reason = ''
            AND CASE WHEN verified_at IS NULL THEN contradiction ELSE vanished::text END IS NOT NULL
            RETURNING id, coalesce(contradiction, ''), coalesce(vanished, '{}')
            """,
            {"windows": list(windows), "reason": reason},
        )
        return [
            ClosedAlarm(window, contradiction, json.loads(vanished))
            for window, contradiction, vanished in cursor.fetchall()
        ]


#: SQL: true if a receipt could have been purged for `%(seconds)s`. Not of one below the mark, for which the first look
#: of each day looks.
IS_PURGE_DUE = f"""EXISTS (
    SELECT FROM pipeline_window
    WHERE dispatched_from < statement_timestamp() - make_interval(days => %(days)s, secs => %(seconds)s)
      AND dispatched_from >= {moment_of("purged")}
      AND acked_at < statement_timestamp() - make_interval(days => %(days)s, secs => %(seconds)s)
      AND verified_at IS NOT NULL
)"""


def purge(*, days: int, limit: int) -> int:
    """Delete verified receipts older than so many days, at most `limit` of them; how many. Others are evidence.

    In the order in which their windows were dispatched. One that is acked or verified long after those around it is
    deleted within a day after its time: the first look of each day begins below the mark.
    """
    # Not above what may be purged: the clock may have been set back.
    last_second = f"""
        SELECT floor(extract(epoch FROM least(
            greatest(max(dispatched_from), {moment_of("purged")}),
            statement_timestamp() - make_interval(days => %(days)s)
        )))::bigint FROM purged"""
    # It never moves back, unlike the mark above: with more days than before, what is gone stays gone.
    last_gone = f"""SELECT greatest(floor(extract(epoch FROM max(dispatched_from)))::bigint, {value_of("purged")},
        {value_of("gone")}) FROM purged"""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{MAY_BE_LOST} {INDEX_PROBES_ONLY}
            WITH today AS MATERIALIZED (
                SELECT (extract(epoch FROM statement_timestamp()) / 86400)::bigint AS day
            ), purged AS (
                DELETE FROM pipeline_window WHERE id = ANY(ARRAY(
                    SELECT id FROM pipeline_window
                    WHERE dispatched_from < statement_timestamp() - make_interval(days => %(days)s)
                      AND dispatched_from >= (
                          SELECT CASE WHEN day = {value_of("swept")}
                                 THEN {moment_of("purged")} ELSE '-infinity' END FROM today
                      ) AND acked_at < statement_timestamp() - make_interval(days => %(days)s)
                      AND verified_at IS NOT NULL
                    ORDER BY dispatched_from LIMIT %(limit)s
                )) RETURNING greatest(dispatched_from, to_timestamp(0)) AS dispatched_from
            ),
            {move("purged", to=last_second)}, {move("swept", to="SELECT day FROM today")},
            {move("gone", to=last_gone)}
            SELECT count(*) FROM purged
            """,
            {"days": days, "limit": limit},
        )
        return int(cursor.fetchone()[0])


# --- What people and probes ask ----------------------------------------------------------------------------------


#: Enough for a test and a first try. Any number more is as many pages more to read, at each scrape.
COUNTED_RECEIPTS = 100


def count_receipts() -> int:
    """Return how many receipts there are: counted up to COUNTED_RECEIPTS, and PostgreSQL's estimate above."""
    return count_or_estimate(
        "pipeline_window",
        # The newest: at the other end of the index are those that have just been purged.
        first_rows="SELECT FROM pipeline_window WHERE acked_at IS NOT NULL ORDER BY number DESC",
        counted_rows=COUNTED_RECEIPTS,
    )


@dataclass(frozen=True, slots=True)
class UnverifiedReceipts:
    """Receipts that the event store has not been found to agree with.

    `oldest_seconds` is the age of the oldest, 0 without one; `oldest_uncompared_seconds` that of the oldest which is
    not known to be contradicted, None without one.
    """

    contradicted: int = 0
    #: When the first rows of those contradicted were dispatched.
    contradicted_since: datetime | None = None
    oldest_seconds: float = 0.0
    oldest_uncompared_seconds: float | None = None


def read_unverified_receipts(*, limit: int) -> UnverifiedReceipts:
    """Return what the receipts that are not verified say: those contradicted, at most `limit` of them, and the oldest.

    There is no need to look at all that wait when verify has not run for days.
    """
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT count(contradiction), min(dispatched_from) FILTER (WHERE contradiction IS NOT NULL),
                   coalesce(extract(epoch FROM clock_timestamp() - min(acked_at)), 0)::float8,
                   extract(epoch FROM clock_timestamp() - min(acked_at) FILTER (WHERE contradiction IS NULL))::float8
            FROM (
                (SELECT acked_at, dispatched_from, contradiction FROM {_UNVERIFIED} ORDER BY number LIMIT 1)
                UNION ALL
                (SELECT acked_at, dispatched_from, contradiction FROM {_UNVERIFIED_LATE}
                 ORDER BY number LIMIT %(limit)s)
            ) AS oldest
            """,
            {"limit": limit},
        )
        return UnverifiedReceipts(*cursor.fetchone())


@dataclass(frozen=True, slots=True)
class Vanished:
    """Rows that were deleted from their outbox before they were loaded, and the number of their windows."""

    windows: int = 0
    rows: int = 0


def count_vanished(*, limit: int) -> Vanished:
    """Return the vanished rows of the oldest windows that have any and are not closed, at most `limit` windows."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(DISTINCT id), coalesce(sum(value::bigint), 0)::bigint
            FROM (
                SELECT id, vanished FROM pipeline_window WHERE vanished IS NOT NULL AND closed_reason = ''
                ORDER BY number LIMIT %(limit)s
            ) AS oldest, jsonb_each_text(vanished)
            """,
            {"limit": limit},
        )
        return Vanished(*cursor.fetchone())


@dataclass(frozen=True, slots=True)
class StoreErrors:
    """Windows that are stored although the event store answered with an error, and one of these errors."""

    windows: int
    example: str


def read_store_errors(*, days: int) -> StoreErrors | None:
    """Return the windows dispatched in the last days whose insert the event store answered with an error; None if there
    are none."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(*), max(store_error) FROM pipeline_window
            WHERE store_error <> '' AND acked_at IS NOT NULL
            AND dispatched_from > statement_timestamp() - make_interval(days => %(days)s)
            """,
            {"days": days},
        )
        windows, example = cursor.fetchone()
        return StoreErrors(windows, example) if windows else None
