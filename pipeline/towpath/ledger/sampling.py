"""The sample of each night: which windows are checked, chosen at random, and whether it has been done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath import driver
from towpath.ledger.marks import INDEX_PROBES_ONLY, move, value_of
from towpath.ledger.packed import BEYOND, POSITIONS_PER_ROW, within
from towpath.ledger.proofs import OF_MONTH

if TYPE_CHECKING:
    import uuid


_FROM_CHOSEN_ON = within(after="chosen.position - 1", until=f"chosen.position + {POSITIONS_PER_ROW}")
#: Somebody may have written any number.
_ENDS = f"""(
    SELECT greatest(1, least(
        (SELECT min(position) FROM pipeline_proof), (SELECT min(first_position) FROM pipeline_packedproofs), {BEYOND}
    )) AS lowest, least({BEYOND}, greatest(
        (SELECT max(position) FROM pipeline_proof), (SELECT max(last_position) FROM pipeline_seal), 1
    )) AS highest
) AS ends"""


def choose_windows(count: int) -> list[uuid.UUID]:
    """Return about so many windows that have a proof, chosen at random."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT DISTINCT (
                SELECT window_id FROM {_FROM_CHOSEN_ON} AS proof WHERE NOT {OF_MONTH} ORDER BY position LIMIT 1
            )
            FROM (
                SELECT lowest + floor(random() * (highest - lowest + 1))::bigint AS position
                FROM {_ENDS}, generate_series(1, %(count)s)
                OFFSET 0
            ) AS chosen
            """,
            {"count": count},
        )
        return [window for (window,) in cursor.fetchall() if window is not None]


def _night(*, after: str = "0") -> str:
    """SQL: nights since 1970, each of which begins at 02:00 UTC, and so many seconds later."""
    return f"floor((extract(epoch FROM clock_timestamp()) - 7200 - {after}) / 86400)::bigint"


_HAS_PROOFS = "(EXISTS (SELECT FROM pipeline_proof) OR EXISTS (SELECT FROM pipeline_packedproofs))"

#: SQL: true if a sample could have been checked for `%(seconds)s`, and nobody has. One that was checked when the night
#: began is ahead of that.
IS_SAMPLE_DUE = f"({_night(after='%(seconds)s')} > {value_of('sampled')} AND {_HAS_PROOFS})"


def is_sample_due() -> bool:
    """True if nobody has checked a sample this night, and there are proofs."""
    with driver.cursor() as cursor:
        cursor.execute(f"SELECT {_night()} <> {value_of('sampled')} AND {_HAS_PROOFS}")
        return bool(cursor.fetchone()[0])


def note_sample() -> None:
    """Note that a sample was checked. If the power fails before, it is checked again."""
    with driver.cursor() as cursor:
        cursor.execute(f"WITH {move('sampled', to=f'SELECT {_night()}')} SELECT")
