"""Open windows, between seal and ack: how many there are, in what state, and why they wait. Nothing is written here."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
class OpenWindowCounts:
    """Windows between seal and ack, and those of them whose lease has expired."""

    total: int = 0
    expired_leases: int = 0


def count_open_windows() -> OpenWindowCounts:
    """Return how many windows are open. MAX_OPEN_WINDOWS bounds them, so all are read."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT count(*), count(*) FILTER (WHERE lease_until < statement_timestamp()) FROM {OPEN_WINDOWS} AS w
            """
        )
        return OpenWindowCounts(*cursor.fetchone())


def read_frequent_errors(*, limit: int) -> list[tuple[str, int]]:
    """Return the most frequent errors of open windows, each with the number of windows that it stopped last."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT last_error, count(*) FROM {OPEN_WINDOWS} AS w WHERE failed_at IS NOT NULL
            GROUP BY last_error ORDER BY count(*) DESC LIMIT %(limit)s
            """,
            {"limit": limit},
        )
        return [(error, windows) for error, windows in cursor.fetchall()]


@dataclass(frozen=True, slots=True)
class SlowWindows:
    """Open windows in one state, and for how many seconds the oldest has been in it."""

    windows: int
    oldest_seconds: int


def count_slow_windows(*, late_seconds: float) -> dict[bool, SlowWindows]:
    """Return the leased windows that were sealed so many seconds ago and have not failed, by whether their insert may
    have been sent."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT is_write_begun, count(*), extract(epoch FROM statement_timestamp() - min(sealed_at))::int
            FROM {OPEN_WINDOWS} AS w WHERE failed_at IS NULL AND lease_until >= statement_timestamp()
            AND sealed_at < statement_timestamp() - make_interval(secs => %(late)s)
            GROUP BY is_write_begun ORDER BY is_write_begun
            """,
            {"late": late_seconds},
        )
        return {is_write_begun: SlowWindows(*counts) for is_write_begun, *counts in cursor.fetchall()}


def count_unclaimed_windows(*, outboxes: Sequence[str], late_seconds: float) -> SlowWindows | None:
    """Return the windows whose lease expired so many seconds ago and that nobody has claimed; None if there are none.

    Windows with rows of an outbox that is not among these are left out.
    """
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT count(*), extract(epoch FROM statement_timestamp() - min(lease_until))::int FROM {OPEN_WINDOWS} AS w
            WHERE lease_until < statement_timestamp() - make_interval(secs => %(late)s) AND NOT {HAS_UNKNOWN_ROWS}
            """,
            {"late": late_seconds, "known": list(outboxes)},
        )
        windows, oldest_seconds = cursor.fetchone()
        return SlowWindows(windows, oldest_seconds) if windows else None


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


def read_last_error(window: uuid.UUID) -> str:
    """Return why the window's last attempt failed; empty if none has, or if there is no such window."""
    with driver.cursor() as cursor:
        cursor.execute("SELECT last_error FROM pipeline_window WHERE id = %(window)s", {"window": window})
        found = cursor.fetchone()
    return "" if found is None else str(found[0])
