"""Proof: the form in which rows are digested, so that a later change of one byte shows. It is the same in every store.

Each store computes the digests in its own SQL, from what it holds. The functions here define what they must be. The
form is fixed, because its digests are kept for years. Another form would be another `FORM`, next to this one.

Form 1 of a row is `<length in bytes>:<bytes>` of each covered column, joined. So no value can pass for its neighbour's.
No column of ours holds NULL, unless somebody has altered the table. NULL is `:`, so no value can pass for it, either.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import UUID

from towpath.eventlog.columns import Column, Kind, row_columns
from towpath.eventlog.values import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FORM = 1

#: How many bytes of a row's digest the locator takes: few enough to be one number in PostgreSQL.
_LOCATOR_BYTES = 6
#: The locator's sums are kept modulo this prime (2^31 - 1), so that each takes four bytes for good.
PRIME = 2_147_483_647
#: How far from the ids of a window's other rows a lost one is looked for.
_NEAR = 10_000


@dataclass(frozen=True, slots=True)
class RowDigest:
    """The digest of a stored row (64 hexadecimal digits), and what identifies the row to a person."""

    outbox: str
    outbox_id: int
    #: The first day of the month of its time, in UTC.
    month: date
    event_type: str
    event_date_time: datetime
    digest: str

    @property
    def number(self) -> int:
        """The first bytes of the digest."""
        return int(self.digest[: 2 * _LOCATOR_BYTES], 16)


@dataclass(frozen=True, slots=True)
class WindowDigest:
    """The digest of a window's rows of one outbox and one month: 64 hexadecimal digits, which prove them."""

    window_id: UUID
    outbox: str
    #: Its first day.
    month: date
    rows: int
    digest: str
    #: With d, the number of a row: the sum of d, and the sum of d * outbox_id.
    digest_sum: int
    id_sum: int

    @property
    def sums(self) -> Sums:
        """The locator of the rows."""
        return Sums.of(self.digest_sum, self.id_sum)


@dataclass(frozen=True, slots=True)
class Sums:
    """The locator of some rows (`changed_row`): both sums modulo 2^31 - 1; 0 without rows. It proves nothing."""

    digest_sum: int = 0
    id_sum: int = 0

    @classmethod
    def of(cls, digest_sum: int, id_sum: int) -> Sums:
        """The sums as they are kept."""
        return cls(digest_sum % PRIME, id_sum % PRIME)


def covered(own: tuple[Column, ...] = ()) -> tuple[str, ...]:
    """Return every column that a person can read, including the project's `own`, in the order of a row's form."""
    return tuple(name for name, _ in _all_columns(own))


def kinds(columns: Sequence[str], own: tuple[Column, ...] = ()) -> list[tuple[str, Kind]]:
    """Return the columns with their kinds. Raises ValueError for a name that is not a column of the event log."""
    known = dict(_all_columns(own))
    if unknown := [name for name in columns if name not in known]:
        raise ValueError(
            f"the event log has no column {', '.join(unknown)}: restore its declaration in the setting TOWPATH"
        )
    return [(name, known[name]) for name in columns]


def _all_columns(own: tuple[Column, ...]) -> list[tuple[str, Kind]]:
    return [*((column.name, column.kind) for column in row_columns(own)), ("written_at", Kind.TIME)]


def row_digest(values: Sequence[tuple[Kind, object]]) -> str:
    """The digest of a row with these values, in the order of the covered columns."""
    return sha256(row_form(values)).hexdigest()


def row_form(values: Sequence[tuple[Kind, object]]) -> bytes:
    """Return the bytes that are digested of a row."""
    texts = (None if value is None else _bytes(kind, value) for kind, value in values)
    return b"".join(b":" if text is None else b"%d:%b" % (len(text), text) for text in texts)


def _bytes(kind: Kind, value: Any) -> bytes:
    match kind:
        case Kind.TEXT | Kind.LOW_CARDINALITY_TEXT:
            return value if isinstance(value, bytes) else str(value).encode()
        case Kind.BOOLEAN:
            return b"true" if value else b"false"
        case Kind.DECIMAL:
            # Python has a negative zero.
            return f"{value or 0:.9f}".encode()
        case Kind.FLOAT:
            return struct.pack(">d", value).hex().encode()
        case Kind.TIME:
            return b"%d" % ((value - EPOCH) // timedelta(microseconds=1))
        case Kind.WHOLE_NUMBER | Kind.SIGNED_NUMBER | Kind.UUID:
            return str(value).encode()


def window_digests(rows: Iterable[tuple[UUID, RowDigest]]) -> list[WindowDigest]:
    """Return the digests of windows with these rows, ordered by window, outbox and month. The order of the rows does
    not matter; a row that comes twice counts twice."""

    def part(row: tuple[UUID, RowDigest]) -> tuple[UUID, str, date]:
        window_id, digest = row
        return window_id, digest.outbox, digest.month

    found = []
    for (window_id, outbox, month), group in itertools.groupby(sorted(rows, key=part), key=part):
        digests = [digest for _, digest in group]
        digest_sum = sum(one.number for one in digests)
        id_sum = sum(one.number * one.outbox_id for one in digests)
        joined = "".join(sorted(digest.digest for digest in digests))
        digest = sha256(joined.encode()).hexdigest()
        found.append(
            WindowDigest(window_id, outbox, month, len(digests), digest, digest_sum, id_sum),
        )
    return found


def changed_row(before: Sums, after: Sums, *, ids: Sequence[int]) -> int | None:
    """Return the outbox_id of the row that was edited, lost or added, if it was only one. Otherwise None, nearly
    always. `ids` are those of the rows that are stored now.

    After one change, the sums differ by delta and by delta * outbox_id, where delta is how much the row's number has
    changed. Modulo the prime, their quotient is the remainder of the id: it is that of a stored row, or of an id close
    to theirs. After several changes the quotient is a random number, and no such id has it. An attacker can choose
    changes that give any id: this only tells where to look first.
    """
    delta = (after.digest_sum - before.digest_sum) % PRIME
    if not delta or not ids:
        return None
    remainder = (after.id_sum - before.id_sum) * pow(delta, -1, PRIME) % PRIME
    if stored := {outbox_id for outbox_id in ids if outbox_id % PRIME == remainder}:
        return stored.pop() if len(stored) == 1 else None
    lowest = max(0, min(ids) - _NEAR)
    lost = lowest + (remainder - lowest) % PRIME
    return lost if lost <= max(ids) + _NEAR else None


def month_of(number: int) -> date:
    """Return the first day of a month that is written as a number, such as 202402."""
    return date(number // 100, number % 100, 1)
