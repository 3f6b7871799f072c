"""Rows for the suite, and the text in which they come: as PostgreSQL's COPY writes it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from towpath.eventlog.columns import ADDED_COLUMNS, Column, FromContext, Kind, added_columns
from towpath.eventlog.proof import covered
from towpath.eventlog.stores.memory import StoredRow
from towpath.eventlog.values import DEFAULTS, as_text, parse

if TYPE_CHECKING:
    from towpath.eventlog.store import EventStore

WINDOW = UUID("11111111-2222-3333-4444-555555555555")
OTHER_WINDOW = UUID("99999999-2222-3333-4444-555555555555")
#: Tokens.
FIRST, SECOND = "first", "second"
MOMENT = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)

#: A project's own columns, one of each kind.
OWN_COLUMNS = tuple(Column(f"own_{kind.name.lower()}", kind, FromContext(kind.value)) for kind in Kind)
#: What just fits into each of them.
LARGEST = (
    "any text",
    "one of few",
    "true",
    "9223372036854775807",
    "9223372036854775807",
    "99999999999999999999999999999.999999999",
    "1.7976931348623157e+308",
    "2299-12-31 23:59:59.999999+00",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
)
SMALLEST = (
    "",
    "",
    "false",
    "0",
    "-9223372036854775808",
    "-99999999999999999999999999999.999999999",
    "-5e-324",
    "1900-01-01 00:00:00+00",
    "00000000-0000-0000-0000-000000000000",
)
#: Of the covered columns, all that a test decides: the store has its own clock.
COLUMNS = tuple(name for name in covered(OWN_COLUMNS) if name != "written_at")
TEXTS = ("", "a\tb\nc\\d\r'\"", "1:a2:b", "😀 é \u2028 \U0010ffff", "NULL", "\\N", "\x01\x7f", " ")
_OWN_DEFAULTS = tuple(DEFAULTS[kind] for kind in Kind)


def row(
    number: int,
    *,
    outbox: str = "outbox_event",
    window: UUID = WINDOW,
    moment: datetime = MOMENT,
    context: bytes = b"{}",
    event_type: str = "paid",
    version: int = 1,
    own: tuple[str, ...] = _OWN_DEFAULTS,
) -> StoredRow:
    added = ("",) * len(ADDED_COLUMNS) + tuple(map(parse, Kind, own))
    return StoredRow(outbox, number, window, event_type, moment, "test", version, context, added)


def own(**values: object) -> tuple[object, ...]:
    """The added columns with these values, and those of a row else."""
    plain = dict(zip((column.name for column in added_columns(OWN_COLUMNS)), row(1).added, strict=True))
    assert values.keys() <= plain.keys()
    return tuple((plain | values).values())


def copy_text(*rows: StoredRow) -> bytes:
    """As PostgreSQL's COPY writes them."""
    return b"".join(
        line(
            row.outbox.encode(),
            b"%d" % row.outbox_id,
            str(row.window_id).encode(),
            row.event_type.encode(),
            row.event_date_time.strftime("%Y-%m-%d %H:%M:%S.%f+00").encode(),
            row.environment.encode(),
            b"%d" % row.metadata_version,
            row.event_context,
            added=tuple(map(as_text, row.added)),
        )
        for row in rows
    )


def line(*values: bytes, added: tuple[str, ...]) -> bytes:
    return b"\t".join(map(escaped, (*values, *(value.encode() for value in added)))) + b"\n"


def escaped(value: bytes) -> bytes:
    value = value.replace(b"\\", b"\\\\")
    for plain, letter in ((b"\b", b"b"), (b"\f", b"f"), (b"\n", b"n"), (b"\r", b"r"), (b"\t", b"t"), (b"\v", b"v")):
        value = value.replace(plain, b"\\" + letter)
    return value


def write(store: EventStore, *rows: StoredRow, token: str = FIRST) -> None:
    store.write(copy_text(*rows), row_count=len(rows), token=token)
