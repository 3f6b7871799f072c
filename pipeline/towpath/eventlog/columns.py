"""The columns of the One Big Table (OBT), declared once: name, kind, and where the value comes from.

A new column is one line at the end of `ADDED_COLUMNS` and `manage.py eventlog migrate`. Rows that were published before
it, or are written by a worker that does not know it yet, get the kind's default.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a column holds; each store has its own type for it."""

    TEXT = "text"
    WHOLE_NUMBER = "whole number"
    TIME = "time"
    UUID = "uuid"


@dataclass(frozen=True, slots=True)
class FromEvent:
    """The outbox gives it: one of its `event_columns()`, by the column's name. Missing there: the default."""


@dataclass(frozen=True, slots=True)
class FromContext:
    """Bound when the event was published (`towpath.outbox.context.bind`), under this key."""

    key: str


@dataclass(frozen=True, slots=True)
class FromPipeline:
    """The pipeline knows it: outbox, outbox_id, window_id, environment."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the OBT."""

    name: str
    kind: Kind
    source: FromEvent | FromContext | FromPipeline


#: First the row's identity, so that a replay can tell rows apart without reading what follows.
BASE_COLUMNS = (
    Column("outbox", Kind.TEXT, FromPipeline()),
    Column("outbox_id", Kind.WHOLE_NUMBER, FromPipeline()),
    Column("window_id", Kind.UUID, FromPipeline()),
    Column("event_type", Kind.TEXT, FromEvent()),
    Column("event_date_time", Kind.TIME, FromEvent()),
    Column("environment", Kind.TEXT, FromPipeline()),
    Column("metadata_version", Kind.WHOLE_NUMBER, FromEvent()),
    Column("event_context", Kind.TEXT, FromEvent()),
)

#: Append only: a column's place is its number in the store's migrations.
ADDED_COLUMNS: tuple[Column, ...] = (
    Column("actor", Kind.TEXT, FromContext("actor")),
    Column("request_id", Kind.TEXT, FromContext("request_id")),
    Column("ip", Kind.TEXT, FromContext("ip")),
)

#: The number of the first added column's migration; the others follow in the order of their declaration.
FIRST_COLUMN_NUMBER = 100

#: Every column that comes with a row, in the order in which a window's rows carry them. `written_at` is the store's.
ROW_COLUMNS = (*BASE_COLUMNS, *ADDED_COLUMNS)
