"""Packed proofs: what is left of verified proofs when their receipts are gone.

A proof is a row of some 300 bytes with its indexes. Packed, it takes 65: the id of its window, its rows, its digest,
and the locator of a changed row. What goes is the digest of its receipt and two times, which nothing can be compared
with any more.

All proofs that a seal covers of one month are packed together or not at all, by a transaction that holds the lock of
the proofs. It commits only if the packed ones are what the seal says (`towpath.proof.packing`). If the power fails
before the commit, nothing has happened.

Proofs are read through `ANY_PROOF` and what follows it, which yield both forms as the same columns. Amendments, what no
seal covers and what a receipt says are only in `pipeline_proof`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from towpath import driver
from towpath.eventlog.proof import PRIME
from towpath.eventlog.values import NO_WINDOW

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date
    from uuid import UUID

#: A row of the table has proofs of at most so many positions, from its first one on. PostgreSQL keeps long values in
#: chunks of 1996 bytes, four to a page: the lists of so many proofs fill theirs, and of a few more each has one more.
POSITIONS_PER_ROW = 990

#: A position that is so high that there is none, and so low that it can be added to.
BEYOND = 1 << 62

#: SQL: the first position of a row named `packed`.
FIRST_POSITION = f"least(packed.first_position, {BEYOND})"

_WINDOWS_PER_LOOK = 1000


def _proofs(*, rows: str, packed: str, items: str) -> str:
    """SQL, in place of a table: the proofs that are rows, and those that are packed, each with its condition. `packed`
    is about rows of the table, `items` about `position` and `item.window_id`.

    Somebody may have put anything into the lists: a proof with a place that is too high is nowhere, and so is one whose
    window is not between the lowest and the highest, where no look for its window would find it. Its seal says that it
    is missing. What else is missing in a list is empty.
    """
    position = f"({FIRST_POSITION} + item.place)"
    return f"""(
        SELECT position, kind, window_id, outbox, month, rows, digest, digest_sum, id_sum, coverage_id, receipt,
               dispatched_at AS dispatched_from, dispatched_at AS dispatched_to, proven_at, reason, false AS is_packed
        FROM pipeline_proof WHERE {rows}
        UNION ALL
        SELECT {position}, 'verified', item.window_id, coalesce(packed.outboxes[item.outbox_number], ''),
               packed.month, coalesce(item.rows, 0), substr(flat.digests, 32 * (item.number::integer - 1) + 1, 32),
               coalesce(item.digest_sum, 0), coalesce(item.id_sum, 0), packed.coverage_id, ''::bytea,
               packed.dispatched_from, packed.dispatched_to, NULL, '', true
        FROM pipeline_packedproofs AS packed CROSS JOIN LATERAL (
            -- Read from where PostgreSQL keeps long values once, and not for each of them.
            SELECT packed.digests || ''::bytea AS digests OFFSET 0
        ) AS flat CROSS JOIN LATERAL unnest(
            packed.places, packed.windows, packed.outbox_numbers, packed.rows, packed.digest_sums, packed.id_sums
        ) WITH ORDINALITY AS item (place, window_id, outbox_number, rows, digest_sum, id_sum, number)
        WHERE item.place BETWEEN 0 AND {POSITIONS_PER_ROW - 1}
          AND item.window_id BETWEEN packed.first_window AND packed.last_window AND ({packed})
          AND ({items.format(position=position)})
    )"""


#: SQL: every proof.
ANY_PROOF = _proofs(rows="true", packed="true", items="true")

#: SQL: the proofs that amend others.
AMENDMENTS = _proofs(rows="kind <> 'verified'", packed="false", items="false")

#: SQL: the proofs of the month `%(month)s`.
OF_THE_MONTH = _proofs(rows="month = %(month)s", packed="packed.month = %(month)s", items="true")


def within(*, after: str, until: str) -> str:
    """SQL: the proofs with positions above one number up to another."""
    return _proofs(
        rows=f"position > {after} AND position <= {until}",
        packed=f"packed.first_position > {after} - {POSITIONS_PER_ROW} AND packed.first_position <= {until}",
        items=f"{{position}} > {after} AND {{position}} <= {until}",
    )


#: SQL: the proofs of the windows `%(windows)s`, with the parameters of `windows_sought`.
OF_WINDOWS = _proofs(
    rows="window_id = ANY(%(windows)s)",
    packed="""packed.first_position = ANY(ARRAY(
        SELECT near.first_position FROM (
            -- Neighbours share their rows of the table: so these are few, and each is looked at only once.
            SELECT first_position, first_window, last_window FROM pipeline_packedproofs
            WHERE last_window >= %(lowest)s AND first_window <= %(highest)s OFFSET 0
        ) AS near
        WHERE EXISTS (
            SELECT FROM unnest(%(windows)s::uuid[]) AS sought
            WHERE sought BETWEEN near.first_window AND near.last_window
        )
    ))""",
    items="item.window_id = ANY(%(windows)s)",
)


def windows_sought(windows: Iterable[UUID]) -> dict[str, Any]:
    """The parameters of `OF_WINDOWS`."""
    wanted = list(windows)
    return {
        "windows": wanted,
        "lowest": min(wanted, default=NO_WINDOW),
        "highest": max(wanted, default=NO_WINDOW),
    }


# --- To pack -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PackableMonth:
    """Proofs that can be packed: all of a month with positions above one up to another."""

    month: date
    after: int
    until: int


def packable_months(*, after: int, until: int) -> list[PackableMonth]:
    """Return the months whose proofs in this range can all be packed. An amendment cannot be, nor a proof that has its
    receipt, nor one that somebody has put in the place of an earlier one: audits must continue to find it. Nor can
    they where somebody has put a row that begins at the position of one of them."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT month FROM pipeline_proof AS proof
            WHERE position > %(after)s AND position <= %(until)s AND month BETWEEN '0002-01-01' AND '9998-12-01'
            GROUP BY month HAVING bool_and(
                kind = 'verified' AND reason = '' AND length(digest) = 32 AND rows BETWEEN 1 AND 2147483647
                AND NOT EXISTS (SELECT FROM pipeline_window WHERE id = proof.window_id)
                AND NOT EXISTS (SELECT FROM pipeline_packedproofs WHERE first_position = proof.position)
            ) AND count(*) = count(DISTINCT (window_id, outbox)) ORDER BY month
            """,
            {"after": after, "until": until},
        )
        months = [month for (month,) in cursor.fetchall()]
        cursor.execute(
            """SELECT DISTINCT window_id, month FROM pipeline_proof
            WHERE position > %(after)s AND position <= %(until)s AND month = ANY(%(months)s) ORDER BY window_id""",
            {"after": after, "until": until, "months": months},
        )
        found = cursor.fetchall()
        for first in range(0, len(found), _WINDOWS_PER_LOOK):
            look: dict[UUID, list[date]] = {}
            for window, month in found[first : first + _WINDOWS_PER_LOOK]:
                look.setdefault(window, []).append(month)
            cursor.execute(
                f"SELECT DISTINCT window_id FROM {OF_WINDOWS} AS proof WHERE position <= %(after)s",
                windows_sought(look) | {"after": after},
            )
            replaced = {month for (window,) in cursor.fetchall() for month in look[window]}
            months = [month for month in months if month not in replaced]
        return [PackableMonth(month, after, until) for month in months]


def pack(months: Sequence[PackableMonth]) -> int:
    """Pack these proofs, those of neighbouring ranges together. Returns their number."""
    bucket = f"PARTITION BY month, coverage_id, position / {POSITIONS_PER_ROW}"
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            WITH taken AS (
                DELETE FROM pipeline_proof AS proof USING (
                    SELECT * FROM unnest(%(months)s::date[], %(after)s::bigint[], %(until)s::bigint[])
                ) AS packable (month, after, until)
                WHERE proof.month = packable.month
                  AND proof.position > packable.after AND proof.position <= packable.until
                RETURNING proof.*
            ), placed AS (
                SELECT *, min(position) OVER ({bucket}) AS first,
                       dense_rank() OVER ({bucket} ORDER BY outbox) AS outbox_number
                FROM taken
            ), packed AS (
                INSERT INTO pipeline_packedproofs (
                    first_position, month, coverage_id, dispatched_from, dispatched_to, first_window, last_window,
                    outboxes, places, windows, outbox_numbers, rows, digests, digest_sums, id_sums
                )
                SELECT first, month, coverage_id, min(dispatched_at), max(dispatched_at),
                       (array_agg(window_id ORDER BY window_id))[1],
                       (array_agg(window_id ORDER BY window_id DESC))[1],
                       array_agg(DISTINCT outbox ORDER BY outbox),
                       array_agg((position - first)::smallint ORDER BY position),
                       array_agg(window_id ORDER BY position), array_agg(outbox_number::smallint ORDER BY position),
                       array_agg(rows::integer ORDER BY position), string_agg(digest, ''::bytea ORDER BY position),
                       array_agg({_reduced("digest_sum")} ORDER BY position),
                       array_agg({_reduced("id_sum")} ORDER BY position)
                FROM placed GROUP BY first, month, coverage_id
            )
            SELECT count(*) FROM taken
            """,
            {
                "months": [one.month for one in months],
                "after": [one.after for one in months],
                "until": [one.until for one in months],
            },
        )
        return int(cursor.fetchone()[0])


def _reduced(total: str) -> str:
    return f"mod(coalesce(nullif({total}, 'NaN'), 0), {PRIME})::integer"
