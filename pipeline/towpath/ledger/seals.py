"""Seals of the ledger: statements about proofs, each chained to the one before.

A seal is a text, and its digest is the SHA-256 of that text, which `sha256sum` computes as well. The one who makes it
holds the lock of the proofs: so there is one at a time, the next number is free, and no proof is still to appear below
the last position that it covers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from towpath import driver
from towpath.ledger.marks import move, value_of
from towpath.ledger.packed import within
from towpath.ledger.proofs import LOCK, OF_MONTH, line, said_month, said_sum, said_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import date, datetime
    from uuid import UUID

#: Seals of one page.
_SEALS_PER_PAGE = 500


@dataclass(frozen=True, slots=True)
class Seal:
    """A seal as it stands in the ledger."""

    number: int
    last_position: int
    sealed_at: datetime
    statement: str
    digest: str
    #: Ed25519, of the statement; empty without a key.
    signature: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """The proofs of one month in a range of positions: how many, of how many rows, and the digests over their digests
    in the order of the positions."""

    proofs: int
    rows: int
    #: Over all that they say. Empty: they are packed.
    digest: str
    #: Over what they still say when they are packed.
    lasting: str


def lock() -> None:
    """Wait until nobody adds proofs or a seal, and keep them from it to the end of this transaction."""
    with driver.cursor() as cursor:
        cursor.execute(LOCK)


def database_now() -> datetime:
    """The database's clock."""
    with driver.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
        return now


def end_of(*, after: int, limit: int) -> int:
    """The position of the last of the next `limit` proofs, and of those of its window that follow it; `after` without
    any.

    A second proof of a window under a later seal counts as added by somebody (`towpath.ledger.suspect`).
    """
    with driver.cursor() as cursor:
        cursor.execute(
            """WITH full_at AS MATERIALIZED (
                SELECT position, window_id FROM pipeline_proof WHERE position > %(after)s
                ORDER BY position LIMIT 1 OFFSET %(skipped)s
            )
            SELECT greatest(max(position), %(after)s) FROM pipeline_proof WHERE position <= coalesce((
                SELECT position - 1 FROM pipeline_proof
                WHERE position > (SELECT position FROM full_at) AND window_id <> (SELECT window_id FROM full_at)
                ORDER BY position LIMIT 1
            ), (SELECT max(position) FROM pipeline_proof))""",
            {"after": after, "skipped": limit - 1},
        )
        return int(cursor.fetchone()[0])


def read_parts(
    *, after: int, until: int, instead: Mapping[int, tuple[int, str]] | None = None, is_sealed: bool = True
) -> Mapping[date | None, Part]:
    """The proofs with positions above `after` up to `until`, by month; None: those of windows without a row.

    `instead` has rows and a digest for some of the positions, in place of what their proofs say. Without `is_sealed`,
    no seal covers them yet, and only those that are rows count: somebody has put packed ones there.
    """
    others, join, rows, digest = instead or {}, "", "proof.rows", "encode(proof.digest, 'hex')"
    if others:
        rows, digest = f"coalesce(instead.rows, {rows})", f"coalesce(instead.digest, {digest})"
        join = """LEFT JOIN (
            SELECT * FROM unnest(%(positions)s::bigint[], %(rows)s::bigint[], %(digests)s::text[])
        ) AS instead (position, rows, digest) ON instead.position = proof.position"""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT {said_month("month")} AS said, count(*), {said_sum("rows")},
                   -- If only some of them are packed, this is nobody's digest: a seal's month is packed as a whole.
                   CASE WHEN bool_and(is_packed) THEN '' ELSE {_over("line")} END, {_over("lasting")}
            FROM (
                SELECT proof.position, proof.month, {rows} AS rows, proof.is_packed,
                       {line(rows, digest)} AS line, {line(rows, digest, is_lasting=True)} AS lasting
                FROM {within(after="%(after)s", until="%(until)s")} AS proof
                JOIN pipeline_coverage AS coverage ON coverage.id = proof.coverage_id
                {join} WHERE %(is_sealed)s OR NOT proof.is_packed
            ) AS lines GROUP BY said ORDER BY said NULLS FIRST
            """,
            {
                "after": after,
                "until": until,
                "is_sealed": is_sealed,
                "positions": list(others),
                "rows": [rows for rows, _ in others.values()],
                "digests": [digest for _, digest in others.values()],
            },
        )
        return {month: Part(*part) for month, *part in cursor.fetchall()}


def _over(text: str) -> str:
    """SQL: the digest over the digests of these texts."""
    return f"encode(sha256(string_agg(sha256(convert_to({text}, 'UTF8')), ''::bytea ORDER BY position)), 'hex')"


def count_windows(*, after: int, until: int) -> int:
    """Of how many windows these proofs are."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""SELECT count(DISTINCT window_id) FROM pipeline_proof AS proof
            WHERE position > %(after)s AND position <= %(until)s AND NOT {OF_MONTH}""",
            {"after": after, "until": until},
        )
        return int(cursor.fetchone()[0])


def proven_since(*, after: int) -> datetime:
    """When the first proof above a position was made. There must be one."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""SELECT {said_time("proven_at")} FROM pipeline_proof WHERE position > %(after)s
            ORDER BY position LIMIT 1""",
            {"after": after},
        )
        found: datetime = cursor.fetchone()[0]
        return found


def newest() -> Seal | None:
    """The last seal."""
    with driver.cursor() as cursor:
        cursor.execute(f"SELECT {_READ} FROM pipeline_seal ORDER BY number DESC LIMIT 1")
        row = cursor.fetchone()
        return _seal(*row) if row else None


_COLUMNS = "number, last_position, sealed_at, statement, digest, signature"
_READ = _COLUMNS.replace("sealed_at", said_time("sealed_at"))


def all_seals(*, since_number: int = 1) -> Iterator[Seal]:
    """The seals from a number on, in order."""
    after = since_number - 1
    while True:
        with driver.cursor() as cursor:
            cursor.execute(
                f"SELECT {_READ} FROM pipeline_seal WHERE number > %(after)s ORDER BY number LIMIT %(limit)s",
                {"after": after, "limit": _SEALS_PER_PAGE},
            )
            found = [_seal(*row) for row in cursor.fetchall()]
        yield from found
        if len(found) < _SEALS_PER_PAGE:
            return
        after = found[-1].number


def to_pack(*, older_than_days: int, limit: int) -> list[Seal]:
    """The next seals whose proofs nobody has packed yet, and that are so old, in order, at most `limit` of them."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""SELECT {_READ} FROM pipeline_seal WHERE number > {value_of("packed")}
            AND sealed_at < statement_timestamp() - make_interval(days => %(days)s) ORDER BY number LIMIT %(limit)s""",
            {"days": older_than_days, "limit": limit},
        )
        return [_seal(*row) for row in cursor.fetchall()]


def note_packed(seal: Seal) -> None:
    """Note that the proofs under the seals up to this one are packed, as far as they can be."""
    with driver.cursor() as cursor:
        cursor.execute(f"WITH {move('packed', to='SELECT %(number)s::bigint')} SELECT", {"number": seal.number})


def numbers_below_first() -> list[int]:
    """The numbers of seals before the first, where no check walks: somebody has put them there."""
    with driver.cursor() as cursor:
        cursor.execute("SELECT number FROM pipeline_seal WHERE number < 1 ORDER BY number LIMIT 20")
        return [number for (number,) in cursor.fetchall()]


def _seal(*row: Any) -> Seal:
    number, last_position, sealed_at, statement, digest, signature = row
    return Seal(number, last_position, sealed_at, statement, digest, bytes(signature))


def insert(seal: Seal) -> None:
    """Add it. Raises IntegrityError if there is one of its number."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""INSERT INTO pipeline_seal ({_COLUMNS}) VALUES (
                %(number)s, %(last_position)s, %(sealed_at)s, %(statement)s, %(digest)s, %(signature)s
            )""",
            {
                "number": seal.number,
                "last_position": seal.last_position,
                "sealed_at": seal.sealed_at,
                "statement": seal.statement,
                "digest": seal.digest,
                "signature": seal.signature,
            },
        )


def find_unsealed(*, older_than_seconds: float, limit: int) -> list[tuple[UUID, float]]:
    """Windows that were proven so long ago, and that no seal covers; each with the hours since then."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT window_id, extract(epoch FROM clock_timestamp() - min({said_time("proven_at")}))::float8 / 3600
            FROM pipeline_proof AS proof
            WHERE position > coalesce((SELECT last_position FROM pipeline_seal ORDER BY number DESC LIMIT 1), 0)
              AND proven_at < statement_timestamp() - make_interval(secs => %(seconds)s) AND NOT {OF_MONTH}
            GROUP BY window_id ORDER BY min(position) LIMIT %(limit)s
            """,
            {"seconds": older_than_seconds, "limit": limit},
        )
        return list(cursor.fetchall())


#: SQL: true if a proof could have been sealed for `%(seconds)s`, which is `%(seal_seconds)s` after it was made, or if
#: it is said to be made later than `%(seconds)s` from now: the clock has been set back.
IS_SEAL_DUE = """coalesce((
    SELECT proven_at NOT BETWEEN
        statement_timestamp() - make_interval(secs => %(seal_seconds)s + %(seconds)s)
        AND statement_timestamp() + make_interval(secs => %(seconds)s)
    FROM pipeline_proof WHERE position > coalesce(
        (SELECT last_position FROM pipeline_seal ORDER BY number DESC LIMIT 1), 0
    )
    ORDER BY position LIMIT 1
), false)"""


@dataclass(frozen=True, slots=True)
class UnsealedProofs:
    """Proofs that no seal covers: how many, at most the limit, and the age of the oldest in seconds; None without."""

    proofs: int = 0
    oldest_seconds: float | None = None


def count_unsealed(*, limit: int) -> UnsealedProofs:
    """What waits for the next seal."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT count(*), extract(epoch FROM clock_timestamp() - min({said_time("proven_at")}))::float8 FROM (
                SELECT proven_at FROM pipeline_proof
                WHERE position > coalesce(
                    (SELECT last_position FROM pipeline_seal ORDER BY number DESC LIMIT 1), 0
                )
                ORDER BY position LIMIT %(limit)s
            ) AS waiting
            """,
            {"limit": limit},
        )
        return UnsealedProofs(*cursor.fetchone())
