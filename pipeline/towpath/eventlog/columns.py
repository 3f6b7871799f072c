"""The columns of the One Big Table (OBT), declared once: name, kind, and where the value comes from.

A project adds its own in its setting, `columns=(Column("tenant", TEXT, FromContext("tenant")),)`, and by `manage.py
eventlog migrate`. Rows that were published before a column, or are written by a worker that does not know it yet, get
the kind's default.
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
    """What a column holds; each store has its own type for it. What fits is the same in all of them
    (`towpath.eventlog.values`)."""

    TEXT = "text"
    #: Text that has few different values, such as a plan or a region.
    LOW_CARDINALITY_TEXT = "low-cardinality text"
    BOOLEAN = "boolean"
    #: From 0 on.
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
    """The outbox gives it: one of its `event_columns()`, by the column's name. Missing there: the default."""


@dataclass(frozen=True, slots=True)
class FromContext:
    """Bound when the event was published (`towpath.outbox.context.bind`), under this key."""

    key: str


@dataclass(frozen=True, slots=True)
class FromEventOrContext:
    """As `FromEvent`; where the outbox gives none, what is bound under this key."""

    key: str


@dataclass(frozen=True, slots=True)
class FromPipeline:
    """The pipeline knows it: outbox, outbox_id, window_id, environment."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the OBT."""

    name: str
    kind: Kind
    source: FromEvent | FromContext | FromEventOrContext | FromPipeline


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

#: Towpath's own. Append only: a column's place is its number in the store's migrations. A new one's name begins with
#: one of OUR_PREFIXES, which no project's column may have, so that an upgrade never meets a column of a project's.
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
    """Every column that comes with a row, in the order in which a window's rows carry them: `own` are the project's.

    `written_at` is the store's.
    """
    return (*BASE_COLUMNS, *ADDED_COLUMNS, *own)


@functools.cache
def added_columns(own: tuple[Column, ...] = ()) -> tuple[Column, ...]:
    """Those of them that a migration of their own adds to the table."""
    return (*ADDED_COLUMNS, *own)


def numbered(own: tuple[Column, ...] = ()) -> Iterator[tuple[int, Column]]:
    """The added columns with the numbers of their migrations."""
    yield from enumerate(ADDED_COLUMNS, FIRST_COLUMN_NUMBER)
    yield from enumerate(own, FIRST_OWN_COLUMN_NUMBER)


def problems(own: object) -> Iterator[str]:
    """What is wrong with a project's declarations, each with how to fix it."""
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
            yield f"the column {column.name!r} is of the unknown kind {column.kind!r}: take one of {kinds}"
        match column.source:
            case FromContext(str(key)) | FromEventOrContext(str(key)) if key:
                pass
            case FromEvent():
                pass
            case _:
                yield (
                    f"the column {column.name!r} has no source: write FromContext(key) for what is bound, FromEvent()"
                    " for a column of the outbox"
                )


def _problem_of_name(name: object, ours: set[str], seen: set[str]) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name) or len(name) > _LONGEST_NAME:
        return f"needs a name of small letters, digits and _, of {_LONGEST_NAME} at most, which begins with a letter"
    if name in ours:
        return "is there already, as one of Towpath's: take another name"
    if name.startswith(OUR_PREFIXES):
        return f"begins as Towpath's own do ({', '.join(OUR_PREFIXES)}): take another name"
    if name in seen:
        return "is declared twice: remove one"
    if name in WORDS_OF_SQL:
        return f"is a word of SQL: take another name, such as {name}_name"
    return ""
