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
from towpath.ledger.packed import AMENDMENTS, ANY_PROOF, OF_WINDOWS, POSITIONS_PER_ROW, windows_sought, within

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


_HIGHEST = (1 << 63) - 1


def _in_utc(column: str) -> str:
    """SQL: a time as a text that no setting changes, to the microsecond."""
    return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"


def said_time(column: str) -> str:
    """SQL: a time as Python can hold it. Only somebody's hand writes another, such as infinity: it must be named."""
    return f"least(greatest({column}, '0002-01-01 00:00:00+00'), '9998-12-01 00:00:00+00')"


def said_month(column: str) -> str:
    """SQL: the same of a month, which may be null."""
    return f"CASE WHEN {column} IS NOT NULL THEN least(greatest({column}, '0002-01-01'), '9998-12-01') END"


def said_sum(column: str) -> str:
    """SQL: the sum of numbers, 0 without any. Whatever somebody has written, it fits into a bigint, and is not below 0:
    a seal has no words for that."""
    return f"least(greatest(sum({column}), 0), {_HIGHEST})::bigint"


#: SQL: the digest of all that a receipt says, of a row of pipeline_window named `receipt`.
OF_RECEIPT = f"""sha256(convert_to(jsonb_build_array(
    receipt.id, receipt.number, {_in_utc("receipt.dispatched_from")}, {_in_utc("receipt.dispatched_to")},
    {_in_utc("receipt.sealed_at")}, {_in_utc("receipt.acked_at")}, receipt.bytes, receipt.rows,
    receipt.delivered, receipt.vanished, receipt.refused, receipt.isolated, receipt.store_error,
    encode(receipt.loaded, 'hex')
)::text, 'UTF8'))"""


#: SQL: what a proof says of its receipt, until it is packed.
_OF_THE_RECEIPT = f"""encode(proof.receipt, 'hex'), {_in_utc("proof.dispatched_from")}, {_in_utc("proof.proven_at")}"""


def line(rows: str, digest: str, *, is_lasting: bool = False) -> str:
    """SQL: all that a row named `proof` says, and its coverage, as text, with these rows and digest. If `is_lasting`,
    only what it still says when it is packed. The sums are left out: they follow from what is digested, and prove
    nothing."""
    of_the_receipt = "" if is_lasting else f"{_OF_THE_RECEIPT},"
    return f"""jsonb_build_array(
        proof.position, proof.kind, proof.window_id, proof.outbox, proof.month, {rows}, {digest}, coverage.columns,
        {of_the_receipt} proof.reason
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
    #: Its window's dispatch. If it is packed, those of the windows that it is packed with lie between the two.
    dispatched_from: datetime
    dispatched_to: datetime
    #: None: it is packed.
    proven_at: datetime | None
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
    windows = sorted({one.window_id for one in stored}.union(empty))
    receipt = "kept.receipt, before.receipt" if kind == "accepted" else "before.receipt, kept.receipt"
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{LOCK} {_COVERAGE}
            WITH proven AS (
                SELECT wanted AS id, coalesce({receipt}, '') AS receipt,
                       coalesce(before.dispatched_from, kept.dispatched_from, clock_timestamp()) AS dispatched_from
                FROM unnest(%(windows)s::uuid[]) AS wanted LEFT JOIN (
                    SELECT DISTINCT ON (window_id) window_id, receipt, dispatched_from FROM {OF_WINDOWS} AS proof
                    ORDER BY window_id, position
                ) AS before ON before.window_id = wanted LEFT JOIN LATERAL (
                    SELECT {OF_RECEIPT} AS receipt, dispatched_from FROM pipeline_window AS receipt
                    WHERE id = wanted AND acked_at IS NOT NULL
                ) AS kept ON true
            ) {_INSERT}
            FROM proven LEFT JOIN {_STORED} ON stored.window_id = proven.id
            ORDER BY proven.id, stored.outbox, stored.month
            """,
            _parameters(kind, stored, columns=columns, windows=windows, reason=reason) | windows_sought(windows),
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
    {said_time("proof.dispatched_from")}, {said_time("proof.dispatched_to")},
    CASE WHEN NOT proof.is_packed THEN {said_time("proof.proven_at")} END, proof.reason, NOT EXISTS (
        -- What stands in the place of an earlier proof is never packed.
        SELECT FROM pipeline_proof AS later
        WHERE later.window_id = proof.window_id AND later.outbox = proof.outbox
          AND later.month IS NOT DISTINCT FROM proof.month AND later.position > proof.position OFFSET 0
    )"""
_AND_COVERAGE = "JOIN pipeline_coverage AS coverage ON coverage.id = proof.coverage_id"


def read_page(*, after: int, limit: int) -> list[Proof]:
    """The proofs of windows from the position after `after` on, in their order."""
    found: list[Any] = []
    with driver.cursor() as cursor:
        while not found:
            cursor.execute(
                """SELECT least((
                    SELECT min(position) FROM pipeline_proof WHERE position > %(after)s
                ), (
                    SELECT greatest(first_position, %(next)s) FROM pipeline_packedproofs
                    WHERE first_position > %(reaches)s ORDER BY first_position LIMIT 1
                ))""",
                # Computed here, where no position is too high.
                {"after": after, "next": after + 1, "reaches": after - POSITIONS_PER_ROW},
            )
            (found_first,) = cursor.fetchone()
            if found_first is None:
                break
            first = int(found_first)
            cursor.execute(
                f"""SELECT {_COLUMNS} FROM {within(after="%(before)s", until="%(until)s")} AS proof {_AND_COVERAGE}
                WHERE NOT {OF_MONTH} ORDER BY proof.position LIMIT %(limit)s""",
                {"before": first - 1, "until": first - 1 + POSITIONS_PER_ROW, "limit": limit},
            )
            found = cursor.fetchall()
            # Without any in so many positions, all that begin there have been looked at.
            after = first - 1 + POSITIONS_PER_ROW
    return [_proof(*row) for row in found]


def of_windows(windows: Iterable[uuid.UUID]) -> list[Proof]:
    """Every proof of these windows, in their order."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""SELECT {_COLUMNS} FROM {OF_WINDOWS} AS proof {_AND_COVERAGE} WHERE NOT {OF_MONTH}
            ORDER BY proof.position""",
            windows_sought(windows),
        )
        return [_proof(*row) for row in cursor.fetchall()]


def _proof(*row: Any) -> Proof:
    position, kind, window, outbox, month, rows, digest, digest_sum, id_sum, coverage, *more, is_latest = row
    dispatched_from, dispatched_to, proven_at, reason = more
    return Proof(
        position=position,
        kind=kind,
        window_id=window,
        outbox=outbox,
        month=month,
        rows=rows,
        digest=digest,
        sums=Sums.of(int(digest_sum or 0), int(id_sum or 0)),
        columns=tuple(coverage.partition(":")[2].split(",")),
        dispatched_from=dispatched_from,
        dispatched_to=dispatched_to,
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
    wanted = windows_sought(windows)
    with driver.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT window_id FROM {OF_WINDOWS} AS proof WHERE NOT {OF_MONTH}", wanted)
        proven = frozenset(window for (window,) in cursor.fetchall())
        cursor.execute("SELECT id FROM pipeline_window WHERE id = ANY(%(windows)s)", wanted)
        return Known(proven, frozenset(window for (window,) in cursor.fetchall()))


def read_amendments() -> list[Proof]:
    """Every proof that says other than that the store held what was delivered, in their order."""
    with driver.cursor() as cursor:
        cursor.execute(f"""SELECT {_COLUMNS} FROM {AMENDMENTS} AS proof {_AND_COVERAGE} ORDER BY proof.position""")
        return [_proof(*row) for row in cursor.fetchall()]


def count_rows_of(windows: Iterable[uuid.UUID], *, month: date) -> int:
    """How many rows of these windows are proven in the month; of amended ones, all proofs count."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"SELECT {said_sum('rows')} FROM {OF_WINDOWS} AS proof WHERE month = %(month)s",
            windows_sought(windows) | {"month": month},
        )
        return int(cursor.fetchone()[0])


def count_rows() -> int:
    """How many rows have a proof: looks at every proof."""
    with driver.cursor() as cursor:
        cursor.execute(f"SELECT {said_sum('rows')} FROM {ANY_PROOF} AS proof WHERE NOT {OF_MONTH}")
        return int(cursor.fetchone()[0])


def last_position() -> int:
    """The highest position; 0 without any."""
    with driver.cursor() as cursor:
        cursor.execute(
            """SELECT greatest(
                (SELECT max(position) FROM pipeline_proof), (SELECT max(last_position) FROM pipeline_seal), 0
            )"""
        )
        return int(cursor.fetchone()[0])
