"""Open windows, between seal and ack: how many there are, in what state, and why they wait. Nothing is written here."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from towpath import driver
from towpath.ledger.marks import INDEX_PROBES_ONLY, value_of

#: By what a window's batches were found: their messages; the ledger, in which an aggregator looks for late ones; or the
#: ledger, in which recovery looks.
Found = Literal["message", "ledger", "recovery"]

#: The windows between seal and ack, as a table. Those at fault and those left behind are few; all others are above the
#: mark (`towpath.ledger.marks`).
OPEN_WINDOWS = f"""(
    SELECT * FROM pipeline_window WHERE number >= {value_of("windows")} AND acked_at IS NULL AND NOT is_late
    UNION ALL
    SELECT * FROM pipeline_window WHERE is_late AND acked_at IS NULL
)"""

#: True of a window `w` with rows of an outbox that is not among the `known`.
HAS_UNKNOWN_ROWS = """EXISTS (
    SELECT FROM pipeline_batch AS b WHERE b.window_id = w.id AND b.outbox <> ALL(%(known)s) OFFSET 0
)"""


def isolated_rows() -> int:
    """The rows of open windows that are at fault by themselves."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT coalesce(sum(value::bigint), 0) FROM {OPEN_WINDOWS} AS w, jsonb_each_text(rows) WHERE is_isolated
            """
        )
        return int(cursor.fetchone()[0])


@dataclass(frozen=True, slots=True)
class SlowWindows:
    """Open windows in one state, and for how many seconds the oldest has been in it."""

    windows: int
    oldest_seconds: int


@dataclass(frozen=True, slots=True)
class WaitingWindow:
    """An open window as a person looks at it."""

    id: uuid.UUID
    rows: int
    age_seconds: float
    attempts: int
    #: True if nobody is delivering it now.
    is_free: bool
    is_isolated: bool
    last_error: str


@dataclass(frozen=True, slots=True)
class OpenWindows:
    """The windows between seal and ack at one moment, and how they are."""

    total: int = 0
    #: Those whose lease has expired.
    expired_leases: int = 0
    #: Leased ones that were sealed long ago and have not failed, by whether their insert may have been sent.
    slow: Mapping[bool, SlowWindows] = field(default_factory=dict)
    #: Those whose lease expired long ago and that nobody has claimed, but for those with rows of unknown outboxes.
    unclaimed: SlowWindows | None = None
    #: The most frequent errors, each with the number of windows that it stopped last.
    errors: Sequence[tuple[str, int]] = ()
    #: Those that wait longest.
    oldest: Sequence[WaitingWindow] = ()


#: Different errors, and windows, that are shown. The others are counted.
_MOST_ERRORS = 5
_MOST_SHOWN = 20


def read_open_windows(*, outboxes: Sequence[str], slow_seconds: float, unclaimed_seconds: float) -> OpenWindows:
    """Return how the open windows are, of which `outboxes` are known. MAX_OPEN_WINDOWS bounds them, so all are read;
    once, because each look at them costs the index probes of both kinds."""
    with driver.cursor() as cursor:
        cursor.execute(
            _OPEN_SQL,
            {
                "known": list(outboxes),
                "slow": slow_seconds,
                "unclaimed": unclaimed_seconds,
                "errors": _MOST_ERRORS,
                "shown": _MOST_SHOWN,
            },
        )
        total, expired, *lists = cursor.fetchone()
    slow, unclaimed, errors, oldest = (json.loads(text) for text in lists)
    return OpenWindows(
        total=total,
        expired_leases=expired,
        slow={is_write_begun: SlowWindows(*counts) for is_write_begun, *counts in slow},
        unclaimed=SlowWindows(*unclaimed[0]) if unclaimed[0][0] else None,
        errors=[(error, windows) for error, windows in errors],
        oldest=[WaitingWindow(uuid.UUID(id_), *rest) for id_, *rest in oldest],
    )


def _list_of(columns: str, *, of: str) -> str:
    """SQL: the rows of a query as JSON, as both drivers read it."""
    return f"(SELECT coalesce(jsonb_agg(jsonb_build_array({columns})), '[]')::text FROM ({of}) AS listed)"


_SECONDS_SINCE = "extract(epoch FROM statement_timestamp() - {})"
_ERRORS = "SELECT last_error, count(*) AS windows FROM w WHERE failed_at IS NOT NULL GROUP BY 1 ORDER BY 2 DESC LIMIT"
_OPEN_SQL = f"""{INDEX_PROBES_ONLY}
WITH w AS MATERIALIZED (
    SELECT id, rows, sealed_at, lease_until, failed_at, attempts, is_isolated, is_write_begun, last_error
    FROM {OPEN_WINDOWS} AS open
), slow AS (
    SELECT is_write_begun, count(*) AS windows, {_SECONDS_SINCE.format("min(sealed_at)")}::int AS oldest FROM w
    WHERE failed_at IS NULL AND lease_until >= statement_timestamp()
      AND sealed_at < statement_timestamp() - make_interval(secs => %(slow)s)
    GROUP BY is_write_begun ORDER BY is_write_begun
), unclaimed AS (
    SELECT count(*) AS windows, {_SECONDS_SINCE.format("min(lease_until)")}::int AS oldest FROM w
    WHERE lease_until < statement_timestamp() - make_interval(secs => %(unclaimed)s) AND NOT {HAS_UNKNOWN_ROWS}
), oldest AS (
    SELECT id, (SELECT coalesce(sum(value::bigint), 0) FROM jsonb_each_text(rows))::bigint AS rows,
           {_SECONDS_SINCE.format("sealed_at")}::float8 AS age, attempts,
           lease_until < statement_timestamp() AS is_free, is_isolated, last_error
    FROM w ORDER BY sealed_at LIMIT %(shown)s
)
SELECT count(*), count(*) FILTER (WHERE lease_until < statement_timestamp()),
       {_list_of("is_write_begun, windows, oldest", of="SELECT * FROM slow")},
       {_list_of("windows, oldest", of="SELECT * FROM unclaimed")},
       {_list_of("last_error, windows", of=f"{_ERRORS} %(errors)s")},
       {_list_of("id, rows, age, attempts, is_free, is_isolated, last_error", of="SELECT * FROM oldest")}
FROM w
"""


def read_newest_found(*, seconds: float, limit: int) -> list[Found]:
    """Return by what the batches of the newest windows were found, at most `limit`: of those acked in the last seconds,
    and of open ones that were sealed in that time."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT found FROM (
                SELECT found, coalesce(acked_at, sealed_at) AS at FROM pipeline_window
                ORDER BY number DESC LIMIT %(limit)s
            ) AS newest
            WHERE at > statement_timestamp() - make_interval(secs => %(seconds)s)
            """,
            {"seconds": seconds, "limit": limit},
        )
        return [found for (found,) in cursor.fetchall()]


@dataclass(frozen=True, slots=True)
class OpenWindow:
    """A window between seal and ack: its rows by outbox, and why its last attempt failed; empty if none has."""

    id: uuid.UUID
    rows: Mapping[str, int]
    last_error: str


def read_open() -> list[OpenWindow]:
    """Return every open window."""
    with driver.cursor() as cursor:
        cursor.execute(f"SELECT id, rows, last_error FROM {OPEN_WINDOWS} AS w ORDER BY number")
        return [OpenWindow(id_, json.loads(rows), last_error) for id_, rows, last_error in cursor.fetchall()]


def find_left_open(windows: Sequence[uuid.UUID], *, older_than_seconds: float) -> set[uuid.UUID]:
    """Return those of the windows that were sealed so long ago, are not acked, and that nobody is delivering now.

    Recovery takes an open window within minutes. One that somebody has inserted may have any times, so one that lies
    further ahead than this counts as one that lies back: otherwise it would keep a window out of every check.
    """
    with driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT id FROM pipeline_window, (
                SELECT statement_timestamp() AS now, make_interval(secs => %(seconds)s) AS long
            ) AS times
            WHERE id = ANY(%(windows)s) AND acked_at IS NULL
              AND sealed_at NOT BETWEEN now - long AND now + long AND lease_until NOT BETWEEN now AND now + long
            """,
            {"windows": list(windows), "seconds": older_than_seconds},
        )
        return {window for (window,) in cursor.fetchall()}


def read_last_error(window: uuid.UUID) -> str:
    """Return why the window's last attempt failed; empty if none has, or if there is no such window."""
    with driver.cursor() as cursor:
        cursor.execute("SELECT last_error FROM pipeline_window WHERE id = %(window)s", {"window": window})
        found = cursor.fetchone()
    return "" if found is None else str(found[0])
