"""The last two hours of the pipeline, a row for each minute: what the console's lines are drawn from.

The table limits its own size: adding a minute removes what is too old. If two processes add the same minute, the second
one adds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from towpath import driver
from towpath.ledger.marks import INDEX_PROBES_ONLY, value_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

#: A bit more than two hours, so that a line of two hours has no gap at its beginning.
MINUTES_KEPT = 130

#: SQL: rows that were stored since the last minute was noted, and how long a window typically took from its dispatch to
#: its ack. Windows below a mark are acked; those left behind are found by their flag, until they are verified.
_STORED = """
    SELECT coalesce(sum((SELECT sum(value::bigint) FROM jsonb_each_text(delivered))), 0)::bigint AS stored,
           percentile_cont(0.5) WITHIN GROUP (
               ORDER BY extract(epoch FROM acked_at - dispatched_from)::float8
           ) AS typical
    FROM (
        SELECT delivered, acked_at, dispatched_from FROM pipeline_window
        WHERE number >= (SELECT mark FROM last) AND acked_at > (SELECT measured_at FROM last) AND NOT is_late
        UNION ALL
        SELECT delivered, acked_at, dispatched_from FROM pipeline_window
        WHERE is_late AND acked_at > (SELECT measured_at FROM last)
    ) AS acked
"""

_LAST = "(SELECT * FROM pipeline_history ORDER BY minute DESC LIMIT 1)"


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of one moment."""

    pending: int
    in_flight: int
    dead_letters: int
    open_windows: int
    #: None if nothing waits, or its age could not be read.
    oldest_age_seconds: float | None


@dataclass(frozen=True, slots=True)
class Minute:
    """One row of the history: what was stored in the seconds before `measured_at`, and what waited then."""

    measured_at: datetime
    seconds: float
    stored: int
    pending: int
    in_flight: int
    dead_letters: int
    open_windows: int
    oldest_age_seconds: float | None
    #: The median time from dispatch to ack of the windows that were acked, in seconds; None without any.
    typical_seconds: float | None

    @property
    def stored_per_second(self) -> float:
        return self.stored / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Lately:
    """What was stored in about the last minute, and how long that typically took; None if unknown."""

    stored_per_second: float | None = None
    #: From a window's dispatch to its ack.
    typical_seconds: float | None = None


def add_minute(measured: Measured) -> bool:
    """Note this minute, unless it is already noted, and remove what is too old. True if it was noted."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            WITH last AS MATERIALIZED {_LAST}, gone AS (
                DELETE FROM pipeline_history WHERE minute < statement_timestamp() - make_interval(mins => %(kept)s)
            ), acked AS ({_STORED})
            INSERT INTO pipeline_history (minute, measured_at, seconds, mark, stored, pending, in_flight, dead_letters,
                                          open_windows, oldest_age_seconds, typical_seconds)
            SELECT date_trunc('minute', statement_timestamp()), statement_timestamp(),
                   coalesce(extract(epoch FROM statement_timestamp() - (SELECT measured_at FROM last))::float8, 0),
                   {value_of("windows")}, stored, %(pending)s, %(in_flight)s, %(dead_letters)s, %(open_windows)s,
                   %(oldest)s, typical
            FROM acked ON CONFLICT DO NOTHING
            """,
            {
                "kept": MINUTES_KEPT,
                "pending": measured.pending,
                "in_flight": measured.in_flight,
                "dead_letters": measured.dead_letters,
                "open_windows": measured.open_windows,
                "oldest": measured.oldest_age_seconds,
            },
        )
        return bool(cursor.rowcount)


def is_due() -> bool:
    """True if this minute is not noted yet."""
    with driver.cursor() as cursor:
        cursor.execute(
            """SELECT NOT EXISTS (
                SELECT FROM pipeline_history WHERE minute = date_trunc('minute', statement_timestamp())
            )"""
        )
        return bool(cursor.fetchone()[0])


# --- What people ask ---------------------------------------------------------------------------------------------

#: By the clock of who asks, which may be another than PostgreSQL's.
_MEASURED_AT = "measured_at + (coalesce(%(now)s::timestamptz, statement_timestamp()) - statement_timestamp())"
_MINUTE = (
    f"{_MEASURED_AT}, seconds, stored, pending, in_flight, dead_letters, open_windows, oldest_age_seconds,"
    " typical_seconds"
)


def read_history(*, minutes: int, now: datetime | None = None) -> Sequence[Minute]:
    """Return the last minutes, oldest first. A minute without a measurement is missing. With `now`, the times are by
    the clock that says so."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""SELECT {_MINUTE} FROM pipeline_history
            WHERE minute > statement_timestamp() - make_interval(mins => %(minutes)s) ORDER BY minute""",
            {"minutes": minutes, "now": now},
        )
        return [Minute(*row) for row in cursor.fetchall()]


#: Until the present minute is this long, the rate includes the minute that was noted last.
_SHORT_SECONDS = 20.0
#: If no minute was noted for longer, nobody measures: an average over hours is not how it goes now.
_LONG_SECONDS = 180.0


def read_lately() -> Lately:
    """Return the figures since the last minute was noted, including that minute while the present one is short;
    none if nobody has noted one for minutes."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            WITH last AS MATERIALIZED {_LAST}, acked AS ({_STORED})
            SELECT acked.stored, acked.typical, extract(epoch FROM statement_timestamp() - measured_at)::float8,
                   last.stored, last.typical_seconds, last.seconds
            FROM last, acked
            """
        )
        found = cursor.fetchone()
    if found is None:
        return Lately()
    rows, typical, seconds, rows_before, typical_before, seconds_before = found
    if seconds > _LONG_SECONDS:
        return Lately()
    if seconds < _SHORT_SECONDS:
        rows, seconds = rows + rows_before, seconds + seconds_before
    return Lately(rows / seconds if seconds > 0 else None, typical_before if typical is None else typical)
