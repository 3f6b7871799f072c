"""A window's rows on their way into a store: PostgreSQL's COPY text, one line per row, columns as in `row_columns`.

No other Python code knows this form; the stores make it again in SQL (`stores/*/proof.py`). Nearly every window passes
through in one piece: the functions here that look at each line are called only when something has gone wrong.
"""

from __future__ import annotations

import re
from datetime import UTC
from typing import TYPE_CHECKING, Any

from towpath.eventlog.columns import BASE_COLUMNS, Column, Kind
from towpath.eventlog.errors import RowsRefused

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

#: (outbox, outbox_id), which identifies a row.
Identity = tuple[str, int]

#: COPY's NULL, as a whole field: it stands for a value that no row may lack.
_NULL = rb"\N"
_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_LETTERS = {plain: letter for letter, plain in _ESCAPES.items()} | {b"\\": b"\\"}
#: Searched together for a NULL.
_STRETCH_BYTES = 4096
_TIME = [column.name for column in BASE_COLUMNS].index("event_date_time")


def lines(rows: bytes) -> list[bytes]:
    """Return each row with its line end, so that they can be joined again."""
    return rows.splitlines(keepends=True)


def outbox(line: bytes) -> bytes:
    """Return the outbox as it is written in the text, to be compared with others only."""
    return line[: line.index(b"\t")]


def identity(line: bytes) -> Identity:
    name, outbox_id, _ = line.split(b"\t", 2)
    return name.decode(), int(outbox_id)


def missing(wanted: Sequence[bytes], stored: Collection[Identity]) -> list[bytes]:
    """Return the lines that are not among the stored rows."""
    return [line for line in wanted if identity(line) not in stored]


def month(line: bytes) -> bytes:
    """Return the month of event_date_time, as PostgreSQL writes it: `2026-11`."""
    return line.split(b"\t", _TIME + 1)[_TIME][:7]


def event_times_of_ends(rows: bytes) -> list[str]:
    """The event_date_time of the first and of the last row, as PostgreSQL writes it."""
    if not rows:
        return []
    first = rows[: rows.index(b"\n")]
    last = rows[rows.rfind(b"\n", 0, -1) + 1 : -1]
    return [line.split(b"\t")[_TIME].decode() for line in dict.fromkeys((first, last))]


def incomplete(rows: bytes) -> dict[Identity, list[int]]:
    """The rows that lack a value, with the places of the columns that lack it."""
    if not _has_null(rows):  # many times faster than looking at each line
        return {}
    found: dict[Identity, list[int]] = {}
    for line in lines(rows):
        fields = line.rstrip(b"\n").split(b"\t")
        if _NULL in fields:
            found[identity(line)] = [place for place, field in enumerate(fields) if field == _NULL]
    return found


def _has_null(rows: bytes) -> bool:
    """True if a field is NULL: a tab comes only before a field, and a backslash in a value is doubled."""
    # Short fields stand together. What comes after a long value is found by its tab: that is ten times faster than to
    # search the value.
    place = rows.find(b"\t")
    while place >= 0:
        end = place + _STRETCH_BYTES
        if rows.find(b"\t" + _NULL, place, end + len(_NULL)) >= 0:
            return True
        place = rows.find(b"\t", end)
    return False


def values(line: bytes, columns: Sequence[Column]) -> dict[str, bytes]:
    """What the columns hold, by name. Raises RowsRefused for a line with more columns or fewer."""
    fields = line.rstrip(b"\n").split(b"\t")
    if len(fields) != len(columns):
        raise RowsRefused(f"Cannot parse input: {len(fields)} columns, expected {len(columns)}")
    return {column.name: _unescaped(field) for column, field in zip(columns, fields, strict=True)}


def escapes() -> Sequence[tuple[str, str]]:
    """Return each escaped character with its escape. The backslash comes first."""
    return [(plain.decode(), f"\\{letter.decode()}") for plain, letter in sorted(_LETTERS.items(), reverse=True)]


def _unescaped(field: bytes) -> bytes:
    return re.sub(rb"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), field, flags=re.DOTALL)


def have_one_text(columns: Sequence[Column]) -> bool:
    """True if a row's text can be made again from its stored values, byte for byte. For a float, stores differ."""
    return all(column.kind is not Kind.FLOAT for column in columns)


def text_of(row: Sequence[tuple[Kind, object]]) -> bytes:
    """Return the text that a load (`towpath.flow.load`) writes for a row with these values. There is only one."""
    return b"\t".join(_field(kind, value) for kind, value in row) + b"\n"


def _field(kind: Kind, value: Any) -> bytes:
    match kind:
        case Kind.TEXT | Kind.LOW_CARDINALITY_TEXT:
            return _escaped(value if isinstance(value, bytes) else value.encode())
        case Kind.BOOLEAN:
            return b"true" if value else b"false"
        case Kind.DECIMAL:
            return f"{value or 0:.9f}".encode()
        case Kind.TIME:
            fraction = f".{value.microsecond:06d}".rstrip("0") if value.microsecond else ""
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}{fraction}+00".encode()
        case Kind.WHOLE_NUMBER | Kind.SIGNED_NUMBER | Kind.UUID:
            return str(value).encode()
    raise ValueError(f"a {kind.value} has several texts")


def _escaped(value: bytes) -> bytes:
    return re.sub(rb"[\\\b\f\n\r\t\v]", lambda match: b"\\" + _LETTERS[match[0]], value)
