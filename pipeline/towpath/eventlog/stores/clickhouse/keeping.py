"""What retention and erasure do to the OBT on ClickHouse: drop a partition, and rewrite rows by a mutation.

The server keeps the text of its latest mutations, so ours contain no value of a row: a digest of its identity names
the row, and byte offsets say what is cut out of its context.
"""

from __future__ import annotations

import itertools
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from zlib import crc32

from towpath.eventlog.masking import MASK
from towpath.eventlog.stores.clickhouse.moments import microseconds
from towpath.eventlog.stores.clickhouse.proof import SAID_WINDOW
from towpath.eventlog.stores.clickhouse.schema import PARTITION_KEY, TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from towpath.eventlog.store import MaskedRow

#: The server answers the first from its list of parts.
COUNT_ROWS = f"SELECT count() FROM {TABLE} WHERE toYYYYMM(event_date_time) = %(month)s"
COUNT_WINDOWS = f"SELECT uniqExact(window_id) FROM {TABLE} WHERE toYYYYMM(event_date_time) = %(month)s"
DROP_MONTH = f"ALTER TABLE {TABLE} DROP PARTITION %(month)s"

#: Most rows of one mutation. Each mutation rewrites every part in which it finds a row, so few are better than many.
_ROWS = 20_000
#: Most characters of a statement. The rows may take this share of them; the rest of the statement needs less than
#: what is left.
MOST_CHARACTERS = 4 << 20
_SHARE_OF_ROWS = 0.8

#: The key that names a row. It includes the context's length and 16 bits of its checksum, so a row that was rewritten
#: in the meantime is not cut again. They are too little to guess values from.
_KEY = """concat(
    substring(lower(hex(SHA256(concat(
        toString(window_id), '/', outbox, '/', toString(outbox_id), '/',
        toString(toUnixTimestamp64Micro(event_date_time))
    )))), 1, 16),
    '/', toString(length(event_context)), '/', toString(bitAnd(CRC32(event_context), 65535))
)"""


def of_month(condition: str) -> str:
    """Return the statement for the windows of the rows of `%(month)s` that meet the condition, as one array."""
    return f"SELECT groupUniqArray({SAID_WINDOW}) FROM {TABLE} WHERE {PARTITION_KEY} = %(month)s AND {condition}"


def mutations(rows: Sequence[MaskedRow], *, mask: str, most_characters: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the statements that rewrite the rows, with their parameters. None has more than `most_characters`."""
    assignments = [f"{name} = if({name} = '', '', '{MASK}')" for name in rows[0].columns]
    if any(row.cuts for row in rows):
        # A cut is "start-end": the number of bytes before it, and the place of the first byte after it, counted from 1.
        # The fold does not process the other rows of the part.
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
        # The key is in the statement twice. The rest is a window's id and punctuation.
        size = 2 * len(key) + len(cuts) + 50
        if part and (len(part) >= _ROWS or characters + size > most_characters):
            yield part
            part, characters = [], 0
        part.append((row, key, cuts))
        characters += size
    yield part


def _key(row: MaskedRow) -> str:
    event = row.event
    identity = f"{event.window_id}/{event.outbox}/{event.outbox_id}/{microseconds(event.event_date_time)}"
    context = event.event_context.encode()
    return f"{sha256(identity.encode()).hexdigest()[:16]}/{len(context)}/{crc32(context) & 0xFFFF}"


def _cuts(row: MaskedRow) -> str:
    context = row.event.event_context
    places = ((len(context[:start].encode()), len(context[:end].encode()) + 1) for start, end in row.cuts)
    return ",".join(f"{start}-{end}" for start, end in places)


def _month(moment: datetime) -> int:
    return moment.year * 100 + moment.month
