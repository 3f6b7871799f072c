"""Rows for the suite, and the text in which they come: as PostgreSQL's COPY writes it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from towpath.eventlog.columns import ADDED_COLUMNS
from towpath.eventlog.stores.memory import StoredRow

if TYPE_CHECKING:
    from towpath.eventlog.store import EventStore

WINDOW = UUID("11111111-2222-3333-4444-555555555555")
OTHER_WINDOW = UUID("99999999-2222-3333-4444-555555555555")
#: Tokens.
FIRST, SECOND = "first", "second"
MOMENT = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)


def row(
    number: int,
    *,
    outbox: str = "outbox_event",
    window: UUID = WINDOW,
    moment: datetime = MOMENT,
    context: bytes = b"{}",
    event_type: str = "paid",
    version: int = 1,
) -> StoredRow:
    return StoredRow(outbox, number, window, event_type, moment, "test", version, context)


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
        )
        for row in rows
    )


def line(*values: bytes) -> bytes:
    return b"\t".join([*(escaped(value) for value in values), *(b"" for _ in ADDED_COLUMNS)]) + b"\n"


def escaped(value: bytes) -> bytes:
    value = value.replace(b"\\", b"\\\\")
    for plain, letter in ((b"\b", b"b"), (b"\f", b"f"), (b"\n", b"n"), (b"\r", b"r"), (b"\t", b"t"), (b"\v", b"v")):
        value = value.replace(plain, b"\\" + letter)
    return value


def write(store: EventStore, *rows: StoredRow, token: str = FIRST) -> None:
    store.write(copy_text(*rows), row_count=len(rows), token=token)
