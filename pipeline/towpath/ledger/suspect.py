"""Suspect windows: their proofs or receipts are not as verification leaves them, or a check has found rows changed.

What a check has found is noted (`ContradictedWindow`), so that `status` keeps saying it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath import driver
from towpath.ledger.marks import moment_of
from towpath.ledger.packed import ANY_PROOF, FIRST_POSITION, OF_WINDOWS, windows_sought
from towpath.ledger.proofs import OF_RECEIPT

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Sequence
    from datetime import datetime


def find_altered_receipts(windows: Iterable[uuid.UUID]) -> set[uuid.UUID]:
    """Return those of the windows whose receipt no longer says what it said when it was proven. One that was purged
    says nothing."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT receipt.id FROM pipeline_window AS receipt
            WHERE receipt.id = ANY(%(windows)s) AND EXISTS (
                SELECT FROM pipeline_proof AS proof WHERE proof.window_id = receipt.id AND proof.receipt <> '' OFFSET 0
            ) AND NOT EXISTS (
                SELECT FROM pipeline_proof AS proof WHERE proof.window_id = receipt.id
                AND proof.receipt = {OF_RECEIPT} OFFSET 0
            )
            """,
            {"windows": list(windows)},
        )
        return {window for (window,) in cursor.fetchall()}


#: SQL: verified receipts without a proof, dispatched in a period.
_UNPROVEN = """pipeline_window WHERE verified_at IS NOT NULL AND NOT EXISTS (
        SELECT FROM pipeline_proof WHERE window_id = pipeline_window.id
    ) AND (%(since)s::timestamptz IS NULL OR dispatched_from >= %(since)s::timestamptz)
    AND (%(until)s::timestamptz IS NULL OR dispatched_from < %(until)s::timestamptz)"""


def find_unproven(
    *,
    limit: int | None,
    windows: Sequence[uuid.UUID] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[uuid.UUID]:
    """Return windows, or those of `windows`, whose receipt is verified and that have no proof: they were verified by an
    older Towpath, or somebody has removed the proof."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT id FROM {_UNPROVEN} AND (%(windows)s::uuid[] IS NULL OR id = ANY(%(windows)s::uuid[]))
            ORDER BY number LIMIT %(limit)s
            """,
            {"limit": limit, "windows": None if windows is None else list(windows), "since": since, "until": until},
        )
        return [window for (window,) in cursor.fetchall()]


def count_unproven() -> int:
    """Return the number of windows whose receipt is verified and that have no proof."""
    with driver.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {_UNPROVEN}", {"since": None, "until": None})
        return int(cursor.fetchone()[0])


#: SQL: how many seals end before a proof. Those of one window are proven in one commit, and so under one seal.
_SEALS_BEFORE = "width_bucket({} - 1, (SELECT ends FROM seals))"

_PACKED_POSITION = f"{FIRST_POSITION} + earlier.place"


def find_replaced(*, limit: int) -> list[uuid.UUID]:
    """Return windows with a proof that is not an amendment, and that stands in the place of an earlier one, or beside
    one that was sealed before. A receipt is verified once: somebody has added it."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            WITH seals AS MATERIALIZED (
                SELECT coalesce(array_agg(last_position ORDER BY last_position), ARRAY[]::bigint[]) AS ends
                FROM pipeline_seal
            )
            SELECT DISTINCT later.window_id FROM pipeline_proof AS later
            WHERE later.kind IN ('verified', 'closed') AND EXISTS (
                SELECT FROM pipeline_proof AS earlier
                WHERE earlier.window_id = later.window_id AND earlier.position < later.position AND (
                    earlier.outbox = later.outbox AND earlier.month IS NOT DISTINCT FROM later.month
                    OR {_SEALS_BEFORE.format("earlier.position")} < {_SEALS_BEFORE.format("later.position")}
                )
            )
            UNION
            -- A window that has a packed proof was verified long ago. Few others have ids between those of its row.
            SELECT later.window_id FROM pipeline_packedproofs AS packed JOIN pipeline_proof AS later
              ON later.window_id BETWEEN packed.first_window AND packed.last_window
             AND later.window_id = ANY(packed.windows)
            WHERE later.kind IN ('verified', 'closed') AND EXISTS (
                -- A row of packed proofs has those of several seals.
                SELECT FROM unnest(packed.places, packed.windows) AS earlier (place, window_id)
                WHERE earlier.window_id = later.window_id AND {_SEALS_BEFORE.format(_PACKED_POSITION)}
                    < {_SEALS_BEFORE.format("later.position")}
            )
            LIMIT %(limit)s
            """,
            {"limit": limit},
        )
        return [window for (window,) in cursor.fetchall()]


def find_outside_of_seals(*, limit: int) -> list[uuid.UUID]:
    """Return windows with a proof below the first position, or a packed one where no seal is: no seal and no check
    looks there, and somebody has put it there."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""SELECT DISTINCT window_id FROM {ANY_PROOF} AS proof
            WHERE position < 1 OR is_packed AND position > coalesce((SELECT max(last_position) FROM pipeline_seal), 0)
            LIMIT %(limit)s""",
            {"limit": limit},
        )
        return [window for (window,) in cursor.fetchall()]


def find_without_receipt(*, limit: int) -> list[uuid.UUID]:
    """Return windows that were verified, and whose receipt is gone before its time: none that was dispatched so late
    was ever purged."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT DISTINCT window_id FROM {ANY_PROOF} AS proof
            WHERE kind IN ('verified', 'closed')
              AND dispatched_to >= {moment_of("purged", "gone", seconds_later=1)}
              AND NOT EXISTS (SELECT FROM pipeline_window WHERE id = proof.window_id) LIMIT %(limit)s
            """,
            {"limit": limit},
        )
        return [window for (window,) in cursor.fetchall()]


def note_contradiction(window: uuid.UUID, contradiction: str | None) -> bool:
    """Record what a check has found of a window; None: nothing any more. True if that is news."""
    with driver.cursor() as cursor:
        if contradiction is None:
            cursor.execute("DELETE FROM pipeline_contradictedwindow WHERE window_id = %(window)s", {"window": window})
        else:
            cursor.execute(
                f"""
                INSERT INTO pipeline_contradictedwindow AS known (window_id, contradiction)
                SELECT window_id, %(contradiction)s FROM {OF_WINDOWS} AS proof LIMIT 1
                ON CONFLICT (window_id) DO UPDATE SET contradiction = excluded.contradiction
                WHERE known.contradiction <> excluded.contradiction
                """,
                windows_sought([window]) | {"contradiction": contradiction},
            )
        return bool(cursor.rowcount)


def find_contradicted(*, limit: int | None, windows: Sequence[uuid.UUID] | None = None) -> list[uuid.UUID]:
    """Return the windows, or those of `windows`, that a check has found changed, at most `limit`."""
    with driver.cursor() as cursor:
        cursor.execute(
            """SELECT window_id FROM pipeline_contradictedwindow
            WHERE (%(windows)s::uuid[] IS NULL OR window_id = ANY(%(windows)s::uuid[])) LIMIT %(limit)s""",
            {"limit": limit, "windows": None if windows is None else list(windows)},
        )
        return [window for (window,) in cursor.fetchall()]


def count_contradicted(*, limit: int) -> int:
    """Return how many windows a check has found changed, at most `limit`."""
    with driver.cursor() as cursor:
        cursor.execute(
            """SELECT count(*) FROM (
                SELECT FROM pipeline_contradictedwindow LIMIT %(limit)s
            ) AS found""",
            {"limit": limit},
        )
        return int(cursor.fetchone()[0])
