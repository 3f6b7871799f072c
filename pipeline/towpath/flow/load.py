"""Load: read a window's rows from PostgreSQL with COPY, as one body of text that the event store reads as it is.

No Python object is made for a row, and no JSON is parsed. A load changes nothing. It can be repeated at any time until
the ack, and gives the same rows in the same order.
"""

from __future__ import annotations

import functools
import io
import uuid
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from django.db import OperationalError, connection
from django.db.models import BooleanField, Case, F, Func, TextField, Value, When
from django.db.models.expressions import Combinable, RawSQL
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Cast, Coalesce
from django.db.models.lookups import GreaterThan
from django.db.models.sql.constants import LOUTER
from django.db.models.sql.datastructures import Join

from towpath import driver
from towpath.errors import NotReadable, WindowTooLarge
from towpath.eventlog.columns import (
    BASE_COLUMNS,
    Column,
    FromContext,
    FromEvent,
    FromEventOrContext,
    FromPipeline,
    row_columns,
)
from towpath.eventlog.rows import Identity, event_times_of_ends, incomplete, lines
from towpath.eventlog.values import IN_WORDS
from towpath.flow.fitting import fitting
from towpath.ledger.batches import IDS_IN_WINDOW, ids_in_window
from towpath.outbox.models import MOST_ROW_BYTES, all_outboxes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from _typeshed import ReadableBuffer as Buffer

    from towpath.ledger.windows import SealedWindow
    from towpath.outbox.models import Outbox

#: A window's rows take milliseconds. A shorter limit of the role would only hold them up.
LONGEST_LOAD_SECONDS = 300

#: What COPY writes, and how long it may take, must not depend on the role, the database or the project's settings. In
#: other time zones, times of long ago have another form.
#: The last setting is there because anyone who may write to a table that lean events refer to may lock it for as long
#: as they like: other events must not wait for that.
_SESSION = f"""
SET LOCAL TimeZone = 'UTC';
SET LOCAL DateStyle = 'ISO, MDY';
SET LOCAL IntervalStyle = 'postgres';
SET LOCAL extra_float_digits = 1;
SET LOCAL bytea_output = 'hex';
SET LOCAL statement_timeout = '{LONGEST_LOAD_SECONDS}s';
SET LOCAL lock_timeout = '1s';
"""
_LOCK_NOT_AVAILABLE = "55P03"
#: Every row of a window is reached by index, whatever the planner believes. Statistics from the middle of a bulk insert
#: say that the tables are empty. The planner then read all users for each row: a window took 50 s instead of 30 ms.
_INDEXES_ONLY = """
SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;
SET LOCAL enable_material = off;
"""

#: Why a row that lacks a value is not delivered.
HIDDEN = (
    "a row that the event refers to is hidden from the pipeline's role, or is NULL where the event does not allow"
    " None. `pipeline doctor` says how to show the row. The event is delivered once the row can be read"
)

#: Why the rows of an outbox wait, although they can be read at another time.
LOCKED = "another session holds a lock on a table that the event is read from: `pipeline status` names the session"

#: Why a row is a dead letter before any event store has seen it.
TOO_LARGE = f"larger than {MOST_ROW_BYTES:,} bytes, the limit of a row: a worker holds several copies of it in memory"

#: Stands for the window's id in the compiled statement.
_PLACE_OF_WINDOW_ID = str(uuid.uuid4())

#: Rows are passed on in pieces of this size, so the limit of a window's bytes is only that exact.
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class LoadedWindow:
    """The rows as COPY text (`towpath.eventlog.rows`), and their number by outbox.

    `hidden` are the rows whose event cannot be read, because of `why_hidden`. `unfit` are the rows that no store can
    hold, each with the reason. Neither must be written.
    """

    rows: bytes
    counts: Mapping[str, int]
    hidden: frozenset[Identity] = frozenset()
    unfit: Mapping[Identity, str] = field(default_factory=dict)
    why_hidden: str = HIDDEN
    _digest: str = field(default="", init=False, repr=False, compare=False)

    @property
    def digest(self) -> str:
        """The SHA-256 of the text, as 64 hexadecimal digits: what `VerifiableStore.body_digests` returns for a window
        that is stored as it was loaded. It is computed on first use."""
        if not self._digest:
            object.__setattr__(self, "_digest", sha256(self.rows).hexdigest())
        return self._digest

    @property
    def row_count(self) -> int:
        return sum(self.counts.values())

    def lines(self) -> list[bytes]:
        return lines(self.rows)

    def event_times_of_ends(self) -> list[str]:
        """The times of the first and the last row. No other row is looked at."""
        return event_times_of_ends(self.rows)


def load(
    window: SealedWindow, *, environment: str, max_bytes: int | None, own_columns: tuple[Column, ...] = ()
) -> LoadedWindow:
    """Read every row of the window, with the project's own columns. Raises WindowTooLarge if it has several rows that
    exceed `max_bytes` together, and NotReadable if some are locked but may be written all the same."""
    outboxes = all_outboxes()
    body = _BoundedBody(max_bytes=max_bytes if window.row_count > 1 else None)
    # The driver calls write() for each row. That of the buffer is C, and it calls ours once per MiB of rows.
    buffer = io.BufferedWriter(body, _BUFFER_BYTES)
    counts: dict[str, int] = {}
    locked: set[Identity] = set()
    try:
        # Sorted, because a window is cut by the position of its rows, and every owner must cut it at the same rows.
        for name in sorted(window.rows):
            outbox = outboxes[window.renamed.get(name, name)]
            try:
                query, parameters = _rows_sql(outbox, name, environment, own_columns, window.id)
                counts[name] = driver.copy_out(query, parameters, settings=_SESSION + _INDEXES_ONLY, to=buffer)
            except OperationalError as error:
                if driver.sqlstate(error) != _LOCK_NOT_AVAILABLE:
                    raise
                if window.is_write_begun:  # an insert that has these rows may arrive at any time
                    raise NotReadable(LOCKED) from error
                locked.update((name, id_) for id_ in ids_in_window(window.id, name))
                counts[name] = window.rows[name]
        buffer.flush()
    except WindowTooLarge:
        connection.close()  # the rest of the COPY is still on its way; a new connection is cheaper than reading it
        raise
    rows = body.getvalue()
    missing = incomplete(rows)
    unread = frozenset(one for one, places in missing.items() if any(place < len(BASE_COLUMNS) for place in places))
    unfit = dict.fromkeys(_too_large(outboxes, window, unread), TOO_LARGE)
    hidden = unread - unfit.keys()
    columns = row_columns(own_columns)
    unfit |= {one: _why_unfit(columns[places[0]]) for one, places in missing.items() if one not in unread}
    return LoadedWindow(rows, counts, hidden | locked, unfit, LOCKED if locked else HIDDEN)


def _why_unfit(column: Column) -> str:
    return (
        f"the column {column.name!r} of the event log cannot hold the row's value: it is not {IN_WORDS[column.kind]}."
        " Correct the row, or drop it"
    )


def _too_large(
    outboxes: Mapping[str, type[Outbox]], window: SealedWindow, unread: frozenset[Identity]
) -> frozenset[Identity]:
    """Return the rows whose payload exceeds the limit of a row."""
    ids: dict[str, list[int]] = {}
    for name, id_ in unread:
        ids.setdefault(name, []).append(id_)
    found: set[Identity] = set()
    for name, ids_of_one in ids.items():
        outbox = outboxes[window.renamed.get(name, name)]
        is_too_large = GreaterThan(outbox.payload_bytes(), MOST_ROW_BYTES)
        rows = outbox._base_manager.filter(is_too_large, id__in=ids_of_one).values_list("id", flat=True)
        found.update((name, id_) for id_ in rows)
    return frozenset(found)


def _rows_sql(
    outbox: type[Outbox], name: str, environment: str, own_columns: tuple[Column, ...], window_id: uuid.UUID
) -> tuple[str, tuple[object, ...]]:
    sql, parameters = _rows_sql_of_any_window(outbox, name, environment, own_columns)
    return sql, tuple(str(window_id) if parameter == _PLACE_OF_WINDOW_ID else parameter for parameter in parameters)


@functools.cache
def _rows_sql_of_any_window(
    outbox: type[Outbox], name: str, environment: str, own_columns: tuple[Column, ...]
) -> tuple[str, tuple[object, ...]]:
    """Compiled once: the ORM takes as long to build it as PostgreSQL takes to read a window's rows."""
    known: dict[str, Combinable] = {
        "outbox": Value(name),
        "outbox_id": F("id"),
        "window_id": Value(_PLACE_OF_WINDOW_ID),
        "environment": Value(environment),
    }
    event_columns = _bounded(outbox)
    # As an array that the planner knows nothing about, it is always looked up by index. With a join or an IN, the plan
    # depends on the statistics of a table that is empty or huge by turns: a window took 27 s instead of 30 ms.
    members = RawSQL(IDS_IN_WINDOW, [_PLACE_OF_WINDOW_ID, name])  # noqa: S611 - a constant, and its parameters
    is_member = Func(F("id"), members, arg_joiner=" = ANY", template="%(expressions)s", output_field=BooleanField())
    rows = outbox._base_manager.filter(is_member).order_by("id")
    query = rows.values_list(*(value_of(column, known, event_columns) for column in row_columns(own_columns))).query
    query.alias_map = {
        alias: _LookUp.of(table) if isinstance(table, Join) else table for alias, table in query.alias_map.items()
    }
    return query.sql_with_params()


def _bounded(outbox: type[Outbox]) -> dict[str, Combinable]:
    """Return the event's columns, without the context of a row that is too large. PostgreSQL knows the size without
    reading the row, and what it does not send takes no memory."""
    columns = dict(outbox.event_columns())
    too_large = When(GreaterThan(outbox.payload_bytes(), MOST_ROW_BYTES), then=Value(None, output_field=TextField()))
    columns["event_context"] = Case(too_large, default=columns["event_context"], output_field=TextField())
    return columns


def value_of(column: Column, known: Mapping[str, Combinable], event_columns: Mapping[str, Combinable]) -> Combinable:
    """Return what a column of the event log gets from an outbox row. `known` is what the pipeline knows, by column, and
    `event_columns` are the outbox's."""
    match column.source:
        case FromPipeline():
            return known[column.name]
        case FromEvent() if column in BASE_COLUMNS:
            return event_columns[column.name]
        case FromEvent():
            return fitting(event_columns.get(column.name, Value(None)), column.kind)
        case FromContext(key):
            return fitting(KeyTextTransform(key, "bound"), column.kind)
        case FromEventOrContext(key):
            of_event = Cast(event_columns.get(column.name, Value(None)), TextField())
            return fitting(Coalesce(of_event, KeyTextTransform(key, "bound")), column.kind)


class _LookUp(Join):
    """A join that looks up the other table's row by index for each row, whatever the planner believes about the tables.

    It is an outer join, which the planner may not reverse: if it believed a table to be empty, it would start from
    users. And it compares with an array: equal values could be merged in the order of an index, so reading the whole
    index would be a possible plan, and a cheap one for an empty table. With that plan, a window of a first bulk import
    took 39 s instead of 20 ms.
    """

    @classmethod
    def of(cls, join: Join) -> _LookUp:
        return cls(
            join.table_name,
            join.parent_alias,
            join.table_alias,
            LOUTER,
            join.join_field,
            join.nullable,
            filtered_relation=join.filtered_relation,
        )

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        sql, parameters = super().as_sql(compiler, connection)
        fields: Iterable[tuple[Any, Any]] = getattr(self, "join_fields", None) or ()
        for of_row, of_other in fields:
            sides = connection.ops.prepare_join_on_clause(self.parent_alias, of_row, self.table_alias, of_other)
            row, other = (compiler.compile(side)[0] for side in sides)
            sql = sql.replace(f"{row} = {other}", f"{other} = ANY(ARRAY[{row}])")
        return sql, parameters


class _BoundedBody(io.RawIOBase):
    """Refuses to grow beyond a limit, so that a worker's memory is bounded, whatever the payloads are."""

    def __init__(self, *, max_bytes: int | None) -> None:
        super().__init__()
        self._body = io.BytesIO()
        self._max_bytes = max_bytes
        self._is_full = False

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        size = memoryview(data).nbytes
        if self._is_full:
            return size  # what the buffer above still held then; it is never read
        if self._max_bytes is not None and self._body.tell() + size > self._max_bytes:
            self._is_full = True
            raise WindowTooLarge
        return self._body.write(data)

    def getvalue(self) -> bytes:
        return self._body.getvalue()
