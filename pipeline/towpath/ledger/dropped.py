"""Dropped months: what was proven of them, until `eventlog retain` made the event store drop them.

A proof without a window records that a month is dropped. It is written first: from then on, earlier proofs of the month
no longer hold, whatever becomes of the rows. Proofs of a dropped month are deleted once their receipts are gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from towpath import driver
from towpath.eventlog.proof import WindowDigest
from towpath.eventlog.values import NO_WINDOW
from towpath.ledger.packed import OF_THE_MONTH, OF_WINDOWS, windows_sought
from towpath.ledger.proofs import OF_MONTH, amend, said_month, said_sum

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date
    from uuid import UUID

#: SQL: the dropped months, each with the position of the proof that says so.
_DROPPED = f"""(
    SELECT month, max(position) AS position FROM pipeline_proof
    WHERE window_id = '{NO_WINDOW}' AND kind = 'dropped' GROUP BY month
) AS dropped"""


def dropped_months() -> Mapping[date, int]:
    """Return the dropped months, each with the position of the proof that says so."""
    with driver.cursor() as cursor:
        cursor.execute(f"SELECT {said_month('month')}, position FROM {_DROPPED}")
        return dict(cursor.fetchall())


@dataclass(frozen=True, slots=True)
class MonthOfLedger:
    """What is proven of a month since it was last dropped, if ever."""

    windows: int
    #: According to the newest proofs.
    rows: int
    #: The position of the newest proof.
    last_position: int
    #: Windows that a check has found to be changed.
    contradicted: int


def read_month(month: date) -> MonthOfLedger:
    """Return what is proven of a month."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            WITH proven AS MATERIALIZED (
                SELECT proof.window_id, proof.outbox, proof.position, proof.rows FROM {OF_THE_MONTH} AS proof
                WHERE NOT {OF_MONTH} AND proof.position > coalesce(
                    (SELECT position FROM {_DROPPED} WHERE month = %(month)s), 0
                )
            ), latest AS (
                SELECT DISTINCT ON (window_id, outbox) window_id, rows, position FROM proven
                ORDER BY window_id, outbox, position DESC
            )
            SELECT count(DISTINCT window_id), {said_sum("rows")}, coalesce(max(position), 0), (
                SELECT count(*) FROM pipeline_contradictedwindow AS changed
                WHERE EXISTS (SELECT FROM proven WHERE proven.window_id = changed.window_id)
            ) FROM latest
            """,
            {"month": month},
        )
        windows, rows, last_position, contradicted = cursor.fetchone()
        return MonthOfLedger(windows, rows, last_position, contradicted)


def positions_in(month: date, windows: Iterable[UUID]) -> dict[UUID, int]:
    """Return the position of the newest proof of each window in the month; windows without any are absent."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"SELECT window_id, max(position) FROM {OF_WINDOWS} AS proof WHERE month = %(month)s GROUP BY window_id",
            windows_sought(windows) | {"month": month},
        )
        return dict(cursor.fetchall())


def is_proven_since(month: date, position: int) -> bool:
    """True if the month has a proof above the position."""
    with driver.cursor() as cursor:
        cursor.execute(
            # What is packed is not new.
            "SELECT EXISTS (SELECT FROM pipeline_proof WHERE position > %(position)s AND month = %(month)s)",
            {"position": position, "month": month},
        )
        return bool(cursor.fetchone()[0])


def note(month: date, *, rows: int, columns: Sequence[str], reason: str) -> None:
    """Record that the month is dropped: what was proven of it so far no longer holds."""
    gone = WindowDigest(NO_WINDOW, "", month, rows, digest="", digest_sum=0, id_sum=0)
    amend([gone], kind="dropped", columns=columns, reason=reason)


def purge_proofs(*, after: int, until: int) -> int:
    """Delete the proofs with positions above `after` up to `until` whose month was dropped later. Returns their number.
    A proof stays as long as its receipt."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            DELETE FROM pipeline_proof AS proof USING {_DROPPED}
            WHERE proof.position > %(after)s AND proof.position <= %(until)s AND NOT {OF_MONTH}
              AND dropped.month = proof.month AND dropped.position > proof.position
              AND NOT EXISTS (SELECT FROM pipeline_window WHERE id = proof.window_id)
            """,
            {"after": after, "until": until},
        )
        deleted = int(cursor.rowcount)
        cursor.execute(
            # No proof of a dropped month is packed. So those of one row are all older than the drop, or all younger.
            f"""
            WITH deleted AS (
                DELETE FROM pipeline_packedproofs AS packed USING {_DROPPED}
                WHERE packed.first_position > %(after)s AND packed.first_position <= %(until)s
                  AND dropped.month = packed.month AND dropped.position > packed.first_position
                RETURNING cardinality(places) AS proofs
            ) SELECT coalesce(sum(proofs), 0)::bigint FROM deleted
            """,
            {"after": after, "until": until},
        )
        return deleted + int(cursor.fetchone()[0])


def rows_of(windows: Iterable[UUID]) -> dict[UUID, dict[str, int]]:
    """Return how many rows of these windows were dropped with their months, by outbox; other windows are absent, and
    so are those without a receipt."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT window_id, outbox, {said_sum("rows")} FROM (
                SELECT DISTINCT ON (proof.window_id, proof.outbox, proof.month)
                    proof.window_id, proof.outbox, proof.rows
                FROM pipeline_proof AS proof
                JOIN {_DROPPED} ON dropped.month = proof.month AND dropped.position > proof.position
                WHERE proof.window_id = ANY(%(windows)s)
                ORDER BY proof.window_id, proof.outbox, proof.month, proof.position DESC
            ) AS latest GROUP BY window_id, outbox
            """,
            {"windows": list(windows)},
        )
        found: dict[UUID, dict[str, int]] = {}
        for window, outbox, rows in cursor.fetchall():
            found.setdefault(window, {})[outbox] = rows
        return found
