"""Proofs: what the event store held of each window when its receipt was verified, as digests; and what amends them.

The rows are only added, all by transactions that hold one lock until they have committed. So positions are in the order
of the commits: no proof ever appears below a position that somebody has seen, and a seal covers all up to one. The lock
is not a writer's: what verifies, once a minute, takes it, and what seals, once an hour.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from towpath import driver
from towpath.eventlog.proof import FORM, Sums
from towpath.eventlog.values import NO_WINDOW

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date, datetime

    from towpath.eventlog.proof import WindowDigest

#: verified: the store held what the receipt says. closed: it did not, and a person has closed the alarm. accepted: it
#: held something else later, or there was no receipt. erased: rows were masked. dropped: the month is gone.
Kind = Literal["verified", "closed", "accepted", "erased", "dropped"]

#: What a proof is about: window, outbox, and the first day of a month.
Key = tuple[uuid.UUID, str, "date | None"]

#: SQL: true of a proof that says of a month that it was dropped. One that says so of a window is somebody else's.
OF_MONTH = f"(proof.window_id = '{NO_WINDOW}' AND proof.kind = 'dropped')"

#: To be sent before an INSERT, in the same message or transaction. "towp", and the table, as for the marks.
LOCK = "SELECT pg_advisory_xact_lock(1953462128, 'pipeline_proof'::regclass::oid::int);"


def _in_utc(column: str) -> str:
    """SQL: a time as a text that no setting changes, to the microsecond."""
    return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"


def said_time(column: str) -> str:
    """SQL: a time as Python can hold it. Only somebody's hand writes another, such as infinity: it must be named."""
    return f"least(greatest({column}, '0002-01-01 00:00:00+00'), '9998-12-01 00:00:00+00')"


def said_month(column: str) -> str:
    """SQL: the same of a month, which may be null."""
    return f"CASE WHEN {column} IS NOT NULL THEN least(greatest({column}, '0002-01-01'), '9998-12-01') END"


#: SQL: the digest of all that a receipt says, of a row of pipeline_window named `receipt`.
OF_RECEIPT = f"""sha256(convert_to(jsonb_build_array(
    receipt.id, receipt.number, {_in_utc("receipt.dispatched_from")}, {_in_utc("receipt.dispatched_to")},
    {_in_utc("receipt.sealed_at")}, {_in_utc("receipt.acked_at")}, receipt.bytes, receipt.rows,
    receipt.delivered, receipt.vanished, receipt.refused, receipt.isolated, receipt.store_error,
    encode(receipt.loaded, 'hex')
)::text, 'UTF8'))"""


def line(*, rows: str = "proof.rows", digest: str = "encode(proof.digest, 'hex')") -> str:
    """SQL: all that a proof says, as text, of a row of pipeline_proof named `proof` and its coverage. The sums are left
    out: they are derived from what is digested, and prove nothing."""
    return f"""jsonb_build_array(
        proof.position, proof.kind, proof.window_id, proof.outbox, proof.month, {rows}, {digest}, coverage.columns,
        encode(proof.receipt, 'hex'), {_in_utc("proof.dispatched_at")}, {_in_utc("proof.proven_at")}, proof.reason
    )::text"""


_COVERAGE = """
INSERT INTO pipeline_coverage (columns) SELECT %(coverage)s
WHERE NOT EXISTS (SELECT FROM pipeline_coverage WHERE columns = %(coverage)s);"""

_STORED = """jsonb_to_recordset(%(stored)s::jsonb) AS stored (
    window_id uuid, outbox text, month date, rows bigint, digest text, digest_sum numeric, id_sum numeric
)"""

_INSERT = """
INSERT INTO pipeline_proof (kind, window_id, outbox, month, rows, digest, digest_sum, id_sum, coverage_id, receipt,
                            dispatched_at, proven_at, reason)
SELECT %(kind)s, proven.id, coalesce(stored.outbox, ''), stored.month, coalesce(stored.rows, 0),
       coalesce(decode(stored.digest, 'hex'), ''), coalesce(stored.digest_sum, 0), coalesce(stored.id_sum, 0),
       (SELECT id FROM pipeline_coverage WHERE columns = %(coverage)s), proven.receipt, proven.dispatched_from,
       clock_timestamp(), %(reason)s"""


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof as it stands in the ledger."""

    position: int
    kind: Kind
    window_id: uuid.UUID
    outbox: str
    month: date | None
    rows: int
    #: In hexadecimal digits; empty: the store had no row of the window.
    digest: str
    sums: Sums
    #: The columns that the digest covers, in their order.
    columns: tuple[str, ...]
    dispatched_at: datetime
    proven_at: datetime
    reason: str
    #: False if a later proof of the same window, outbox and month stands in its place.
    is_latest: bool

    @property
    def key(self) -> Key:
        return self.window_id, self.outbox, self.month


def note_verified(windows: Sequence[uuid.UUID], stored: Iterable[WindowDigest], *, columns: Sequence[str]) -> None:
    """The event store was found to hold exactly what these receipts say: verify them, and prove what it holds.

    In one commit. A receipt that somebody else has verified meanwhile is left as it is. If the power fails before the
    commit, the receipts are not verified, and are looked at again.
    """
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{LOCK} {_COVERAGE}
            WITH proven AS (
                UPDATE pipeline_window AS receipt SET
                    verified_at = clock_timestamp(), contradiction = NULL, is_late = false
                WHERE id = ANY(%(windows)s) AND acked_at IS NOT NULL AND verified_at IS NULL
                RETURNING id, number, dispatched_from, {OF_RECEIPT} AS receipt
            ) {_INSERT}
            FROM proven LEFT JOIN {_STORED} ON stored.window_id = proven.id
            ORDER BY proven.number, stored.outbox, stored.month
            """,
            _parameters("verified", stored, columns=columns, windows=list(windows)),
        )


def note_closed(
    windows: Sequence[uuid.UUID], stored: Iterable[WindowDigest], *, columns: Sequence[str], reason: str
) -> None:
    """Prove what the store holds of windows whose alarm a person has closed, in the transaction that closes it."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{LOCK} {_COVERAGE}
            WITH proven AS (
                SELECT id, number, dispatched_from, {OF_RECEIPT} AS receipt FROM pipeline_window AS receipt
                WHERE id = ANY(%(windows)s)
            ) {_INSERT}
            FROM proven LEFT JOIN {_STORED} ON stored.window_id = proven.id
            ORDER BY proven.number, stored.outbox, stored.month
            """,
            _parameters("closed", stored, columns=columns, windows=list(windows), reason=reason),
        )


def amend(
    stored: Sequence[WindowDigest],
    *,
    kind: Kind,
    columns: Sequence[str],
    reason: str,
    empty: Iterable[uuid.UUID] = (),
) -> None:
    """Prove what the store holds now of these windows, outboxes and months: it stands in the place of the proof before,
    which stays. Of the windows that are `empty`, the store holds no row.

    A person who accepts a window accepts its receipt, too. Any other amendment keeps what the receipt said at first, so
    that it covers up no change of it.
    """
    receipt = "kept.receipt, before.receipt" if kind == "accepted" else "before.receipt, kept.receipt"
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{LOCK} {_COVERAGE}
            WITH proven AS (
                SELECT wanted AS id, coalesce({receipt}, '') AS receipt,
                       coalesce(before.dispatched_at, kept.dispatched_from, clock_timestamp()) AS dispatched_from
                FROM unnest(%(windows)s::uuid[]) AS wanted LEFT JOIN LATERAL (
                    SELECT receipt, dispatched_at FROM pipeline_proof WHERE window_id = wanted
                    ORDER BY position LIMIT 1
                ) AS before ON true LEFT JOIN LATERAL (
                    SELECT {OF_RECEIPT} AS receipt, dispatched_from FROM pipeline_window AS receipt
                    WHERE id = wanted AND acked_at IS NOT NULL
                ) AS kept ON true
            ) {_INSERT}
            FROM proven LEFT JOIN {_STORED} ON stored.window_id = proven.id
            ORDER BY proven.id, stored.outbox, stored.month
            """,
            _parameters(
                kind,
                stored,
                columns=columns,
                windows=sorted({one.window_id for one in stored}.union(empty)),
                reason=reason,
            ),
        )


def _parameters(
    kind: Kind, stored: Iterable[WindowDigest], *, columns: Sequence[str], windows: list[uuid.UUID], reason: str = ""
) -> dict[str, Any]:
    return {
        "kind": kind,
        "windows": windows,
        "coverage": f"{FORM}:{','.join(columns)}",
        "reason": reason,
        "stored": json.dumps(
            [
                {
                    "window_id": str(one.window_id),
                    "outbox": one.outbox,
                    "month": one.month.isoformat(),
                    "rows": one.rows,
                    "digest": one.digest,
                    "digest_sum": one.digest_sum,
                    "id_sum": one.id_sum,
                }
                for one in stored
            ]
        ),
    }


_COLUMNS = f"""proof.position, proof.kind, proof.window_id, proof.outbox, {said_month("proof.month")}, proof.rows,
    encode(proof.digest, 'hex'), nullif(proof.digest_sum, 'NaN'), nullif(proof.id_sum, 'NaN'), coverage.columns,
    {said_time("proof.dispatched_at")}, {said_time("proof.proven_at")}, proof.reason, NOT EXISTS (
        SELECT FROM pipeline_proof AS later
        WHERE later.window_id = proof.window_id AND later.outbox = proof.outbox
          AND later.month IS NOT DISTINCT FROM proof.month AND later.position > proof.position OFFSET 0
    )"""
_FROM = "pipeline_proof AS proof JOIN pipeline_coverage AS coverage ON coverage.id = proof.coverage_id"


def read_page(*, after: int, limit: int) -> list[Proof]:
    """The proofs of windows from the position after `after` on, in their order."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""SELECT {_COLUMNS} FROM {_FROM} WHERE proof.position > %(after)s AND NOT {OF_MONTH}
            ORDER BY proof.position LIMIT %(limit)s""",
            {"after": after, "limit": limit},
        )
        return [_proof(*row) for row in cursor.fetchall()]


def of_windows(windows: Iterable[uuid.UUID]) -> list[Proof]:
    """Every proof of these windows, in their order."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""SELECT {_COLUMNS} FROM {_FROM} WHERE proof.window_id = ANY(%(windows)s) AND NOT {OF_MONTH}
            ORDER BY proof.position""",
            {"windows": list(windows)},
        )
        return [_proof(*row) for row in cursor.fetchall()]


def _proof(*row: Any) -> Proof:
    position, kind, window, outbox, month, rows, digest, digest_sum, id_sum, coverage, *more, is_latest = row
    dispatched_at, proven_at, reason = more
    return Proof(
        position=position,
        kind=kind,
        window_id=window,
        outbox=outbox,
        month=month,
        rows=rows,
        digest=digest,
        sums=Sums(int(digest_sum or 0), int(id_sum or 0)),
        columns=tuple(coverage.partition(":")[2].split(",")),
        dispatched_at=dispatched_at,
        proven_at=proven_at,
        reason=reason,
        is_latest=is_latest,
    )


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows of windows that the store has rows of."""

    #: They have a proof.
    proven: frozenset[uuid.UUID]
    #: They are open, or have a receipt.
    in_ledger: frozenset[uuid.UUID]


def known_of(windows: Iterable[uuid.UUID]) -> Known:
    """Which of these windows the ledger has."""
    wanted = {"windows": list(windows)}
    with driver.cursor() as cursor:
        cursor.execute(
            f"""SELECT DISTINCT window_id FROM pipeline_proof AS proof
            WHERE window_id = ANY(%(windows)s) AND NOT {OF_MONTH}""",
            wanted,
        )
        proven = frozenset(window for (window,) in cursor.fetchall())
        cursor.execute("SELECT id FROM pipeline_window WHERE id = ANY(%(windows)s)", wanted)
        return Known(proven, frozenset(window for (window,) in cursor.fetchall()))


def read_amendments() -> list[Proof]:
    """Every proof that says other than that the store held what was delivered, in their order."""
    with driver.cursor() as cursor:
        cursor.execute(f"""SELECT {_COLUMNS} FROM {_FROM} WHERE proof.kind <> 'verified' ORDER BY proof.position""")
        return [_proof(*row) for row in cursor.fetchall()]


def count_rows_of(windows: Iterable[uuid.UUID], *, month: date) -> int:
    """How many rows of these windows are proven in the month; of amended ones, all proofs count."""
    with driver.cursor() as cursor:
        cursor.execute(
            """SELECT coalesce(sum(rows), 0)::bigint FROM pipeline_proof
            WHERE window_id = ANY(%(windows)s) AND month = %(month)s""",
            {"windows": list(windows), "month": month},
        )
        return int(cursor.fetchone()[0])


def count_rows() -> int:
    """How many rows have a proof: looks at every proof."""
    with driver.cursor() as cursor:
        cursor.execute(f"SELECT coalesce(sum(rows), 0)::bigint FROM pipeline_proof AS proof WHERE NOT {OF_MONTH}")
        return int(cursor.fetchone()[0])


def last_position() -> int:
    """The highest position; 0 without any."""
    with driver.cursor() as cursor:
        cursor.execute("SELECT coalesce(max(position), 0) FROM pipeline_proof")
        return int(cursor.fetchone()[0])
