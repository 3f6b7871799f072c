"""The columns of the One Big Table (OBT), declared once: name, kind, and where the value comes from.

A project adds its own in its setting, `columns=(Column("tenant", TEXT, FromContext("tenant")),)`, and runs `manage.py
eventlog migrate`. A row that was published before a column existed, or that is written by a worker that does not know
it yet, gets the default of its kind.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from towpath.eventlog.reserved import WORDS_OF_SQL

if TYPE_CHECKING:
    from collections.abc import Iterator


class Kind(StrEnum):
    """The kind of a column's values. Each store has its own type for it, but the same values fit in all of them
    (`towpath.eventlog.values`)."""

    TEXT = "text"
    #: Text with few different values, such as a plan or a region.
    LOW_CARDINALITY_TEXT = "low-cardinality text"
    BOOLEAN = "boolean"
    #: 0 to 2^63 - 1.
    WHOLE_NUMBER = "whole number"
    SIGNED_NUMBER = "signed number"
    #: 29 digits before the point and 9 after it, exactly.
    DECIMAL = "decimal"
    #: Of 64 bits.
    FLOAT = "float"
    TIME = "time"
    UUID = "uuid"


TEXT = Kind.TEXT
LOW_CARDINALITY_TEXT = Kind.LOW_CARDINALITY_TEXT
BOOLEAN = Kind.BOOLEAN
WHOLE_NUMBER = Kind.WHOLE_NUMBER
SIGNED_NUMBER = Kind.SIGNED_NUMBER
DECIMAL = Kind.DECIMAL
FLOAT = Kind.FLOAT
TIME = Kind.TIME
UUID = Kind.UUID


@dataclass(frozen=True, slots=True)
class FromEvent:
    """The value comes from the outbox's column of the same name. Without such a column, it is the kind's default."""


@dataclass(frozen=True, slots=True)
class FromContext:
    """The value is what was bound under this key when the event was published (`towpath.outbox.context.bind`)."""

    key: str


@dataclass(frozen=True, slots=True)
class FromEventOrContext:
    """The value comes from the outbox, as for `FromEvent`; without one there, from what was bound under this key."""

    key: str


@dataclass(frozen=True, slots=True)
class FromPipeline:
    """The pipeline fills it: outbox, outbox_id, window_id, environment. Not for a project's own columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the event log: `Column("tenant", TEXT, FromContext("tenant"))`.

    Parameters:
      name: at most 63 lower-case letters, digits and _, beginning with a letter.
      kind: TEXT, LOW_CARDINALITY_TEXT, BOOLEAN, WHOLE_NUMBER, SIGNED_NUMBER, DECIMAL, FLOAT, TIME or UUID.
      source: where the value comes from.
    """

    name: str
    kind: Kind
    source: FromEvent | FromContext | FromEventOrContext | FromPipeline


#: The row's identity comes first, so that a replay can tell rows apart without reading the rest.
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

#: Towpath's own columns. Append only: a column's place is its number in the store's migrations. The name of a new one
#: begins with one of OUR_PREFIXES, which no project may use, so an upgrade never collides with a project's column.
ADDED_COLUMNS: tuple[Column, ...] = (
    Column("actor", Kind.TEXT, FromContext("actor")),
    Column("request_id", Kind.TEXT, FromContext("request_id")),
    Column("ip", Kind.TEXT, FromContext("ip")),
    Column("target", Kind.TEXT, FromEventOrContext("target")),
    Column("outcome", Kind.LOW_CARDINALITY_TEXT, FromEventOrContext("outcome")),
)
OUR_PREFIXES = ("event_", "outbox_", "window_", "towpath_")

#: The number of the first added column's migration; the others follow in the order of their declaration.
FIRST_COLUMN_NUMBER = 100
#: The number of the project's first one.
FIRST_OWN_COLUMN_NUMBER = 10_000

#: What an `outcome` can be.
OUTCOMES = ("success", "failure", "denied")

#: Bytes of a name in PostgreSQL.
_LONGEST_NAME = 63


@functools.cache
def row_columns(own: tuple[Column, ...] = ()) -> tuple[Column, ...]:
    """Return every column that a row carries, in its order. `own` are the project's columns.

    `written_at` is not among them: the store fills it.
    """
    return (*BASE_COLUMNS, *ADDED_COLUMNS, *own)


@functools.cache
def added_columns(own: tuple[Column, ...] = ()) -> tuple[Column, ...]:
    """Return the columns that have a migration of their own."""
    return (*ADDED_COLUMNS, *own)


def numbered(own: tuple[Column, ...]) -> Iterator[tuple[int, Column]]:
    """Yield the added columns with the numbers of their migrations."""
    yield from enumerate(ADDED_COLUMNS, FIRST_COLUMN_NUMBER)
    yield from enumerate(own, FIRST_OWN_COLUMN_NUMBER)


def problems(own: object) -> Iterator[str]:
    """Yield what is wrong with a project's columns, and how to fix it."""
    if not isinstance(own, tuple):
        yield f"it is a {type(own).__name__}: write a tuple, columns=(Column(...),)"
        return
    ours = {column.name for column in row_columns()} | {"written_at"}
    seen: set[str] = set()
    for column in own:
        if not isinstance(column, Column):
            yield f'it has {column!r}: write Column("tenant", TEXT, FromContext("tenant"))'
            continue
        if problem := _problem_of_name(column.name, ours, seen):
            yield f"the column {column.name!r} {problem}"
        seen.add(str(column.name))
        if not isinstance(column.kind, Kind):
            kinds = ", ".join(kind.name for kind in Kind)
            yield f"the column {column.name!r} is of the unknown kind {column.kind!r}: use one of {kinds}"
        match column.source:
            case FromContext(str(key)) | FromEventOrContext(str(key)) if key:
                pass
            case FromEvent():
                pass
            case _:
                yield (
                    f"the column {column.name!r} has no source: use FromContext(key) for a bound value, or"
                    " FromEvent() for a column of the outbox"
                )


def _problem_of_name(name: object, ours: set[str], seen: set[str]) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name) or len(name) > _LONGEST_NAME:
        return f"needs a name of at most {_LONGEST_NAME} lower-case letters, digits and _, beginning with a letter"
    if name in ours:
        return "is already one of Towpath's own columns: choose another name"
    if name.startswith(OUR_PREFIXES):
        return f"begins like one of Towpath's own columns ({', '.join(OUR_PREFIXES)}): choose another name"
    if name in seen:
        return "is declared twice: remove one"
    if name in WORDS_OF_SQL:
        return f"is a reserved word of SQL: choose another name, such as {name}_name"
    return ""
