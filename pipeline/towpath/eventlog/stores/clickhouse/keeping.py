"""What retention and erasure do to the OBT on ClickHouse: a partition is dropped, and rows are rewritten by a mutation.

A server keeps the text of its last mutations. So ours has no value of a row: a row is named by a digest of its
identity, and its context is cut by numbers.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from zlib import crc32

from towpath.eventlog.masking import MASK
from towpath.eventlog.stores.clickhouse.schema import PARTITION_KEY, TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from towpath.eventlog.store import MaskedRow, Wanted

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

DROP_MONTH = f"ALTER TABLE {TABLE} DROP PARTITION %(month)s"

#: Of one mutation, at most. Each rewrites the parts that it finds rows in, so few mutations are better than many.
_ROWS = 20_000
#: Of the text of a statement. The rest of it is less than what is left.
MOST_CHARACTERS = 4 << 20
_SHARE_OF_ROWS = 0.8

#: The name of a row. Its context is part of it by its length and by 16 bits of a checksum: so a row that was rewritten
#: meanwhile is not cut again, and nobody can guess values by them.
_KEY = """concat(
    substring(lower(hex(SHA256(concat(
        toString(window_id), '/', outbox, '/', toString(outbox_id), '/',
        toString(toUnixTimestamp64Micro(event_date_time))
    )))), 1, 16),
    '/', toString(length(event_context)), '/', toString(bitAnd(CRC32(event_context), 65535))
)"""


def conditions(wanted: Wanted) -> tuple[str, dict[str, object]]:
    """Which rows are wanted, and the parameters of that."""
    parameters: dict[str, object] = {f"column_{name}": value for name, value in wanted.columns.items()}
    parameters |= {f"text_{number}": text for number, text in enumerate(wanted.texts)}
    found = [f"{name} = %(column_{name})s" for name in wanted.columns]
    if wanted.texts:
        has_all = " AND ".join(f"position(event_context, %(text_{number})s) > 0" for number in range(len(wanted.texts)))
        found.append(f"(position(event_context, char(92)) > 0 OR ({has_all}))")
    return " AND ".join(found) or "true", parameters


def of_month(condition: str) -> str:
    """The windows of the wanted rows of a month, as one array."""
    return f"SELECT groupUniqArray(window_id) FROM {TABLE} WHERE {PARTITION_KEY} = %(month)s AND {condition}"


def mutations(rows: Sequence[MaskedRow], *, mask: str, most_characters: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The statements that rewrite the rows, each with its parameters and no more text than so many characters."""
    assignments = [f"{name} = if({name} = '', '', '{MASK}')" for name in rows[0].columns]
    if any(row.cuts for row in rows):
        # Each cut is where it begins and how far on the text continues, in bytes from 1 on. Other rows of the part are
        # not looked at by the fold.
        cuts = f"(transform({_KEY}, %(keys)s, %(cuts)s, '') AS towpath_cuts)"
        place = "toUInt64OrZero(splitByChar('-', cut)[{}])"
        assignments.append(f"""
            event_context = if({cuts} = '', event_context, arrayFold(
                (text, cut) -> concat(
                    substring(text, 1, {place.format(1)}), %(mask)s, substring(text, {place.format(2)})
                ), arrayReverse(splitByChar(',', towpath_cuts)), event_context
            ))""")
    sql = f"""
        ALTER TABLE {TABLE} UPDATE {", ".join(assignments)} IN PARTITION %(month)s
        WHERE window_id IN %(windows)s AND {_KEY} IN %(keys)s
        """
    ordered = sorted(rows, key=lambda row: (_month(row.event.event_date_time), row.event.window_id))
    for month, of_month in itertools.groupby(ordered, key=lambda row: _month(row.event.event_date_time)):
        for part in _parts(of_month, most_characters=int(most_characters * _SHARE_OF_ROWS)):
            yield (
                sql,
                {
                    "month": month,
                    "windows": tuple(dict.fromkeys(str(row.event.window_id) for row, _, _ in part)),
                    "keys": [key for _, key, _ in part],
                    "cuts": [cuts for _, _, cuts in part],
                    "mask": mask,
                },
            )


def _parts(rows: Iterator[MaskedRow], *, most_characters: int) -> Iterator[list[tuple[MaskedRow, str, str]]]:
    part: list[tuple[MaskedRow, str, str]] = []
    characters = 0
    for row in rows:
        key, cuts = _key(row), _cuts(row)
        # With a window's id, and the key once more.
        size = 2 * len(key) + len(cuts) + 50
        if part and (len(part) >= _ROWS or characters + size > most_characters):
            yield part
            part, characters = [], 0
        part.append((row, key, cuts))
        characters += size
    yield part


def _key(row: MaskedRow) -> str:
    event = row.event
    microseconds = (event.event_date_time - _EPOCH) // timedelta(microseconds=1)
    identity = f"{event.window_id}/{event.outbox}/{event.outbox_id}/{microseconds}"
    context = event.event_context.encode()
    return f"{sha256(identity.encode()).hexdigest()[:16]}/{len(context)}/{crc32(context) & 0xFFFF}"


def _cuts(row: MaskedRow) -> str:
    context = row.event.event_context
    places = ((len(context[:start].encode()), len(context[:end].encode()) + 1) for start, end in row.cuts)
    return ",".join(f"{start}-{end}" for start, end in places)


def _month(moment: datetime) -> int:
    return moment.year * 100 + moment.month
