"""Load: a window's rows out of PostgreSQL, by COPY, as one body of text that the event store reads as it is.

No Python object is made for a row, and no JSON is parsed. A load changes nothing: it can be done again at any time
until the ack, and gives the same rows in the same order.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import connection, transaction
from django.db.models import BooleanField, F, Func, TextField, Value
from django.db.models.expressions import Combinable, RawSQL
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Coalesce
from django.db.models.sql.datastructures import Join

from backend.eventlog.columns import (
    ROW_COLUMNS,
    Column,
    FromContext,
    FromEvent,
    FromPipeline,
    FromSetting,
    Kind,
)
from backend.outbox.models import all_outboxes
from pipeline.errors import WindowTooLarge

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from backend.outbox.models import Outbox
    from pipeline.window import SealedWindow

#: Every row of a window is reached by index, whatever the planner believes. Statistics taken in the middle of a bulk
#: insert say that the tables are empty; it then read all users for each row, and a window took 50 s instead of 30 ms.
_INDEXES_ONLY = "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"

#: What an outbox that does not have a column's value gives, as COPY text.
_DEFAULTS = {
    Kind.TEXT: "",
    Kind.WHOLE_NUMBER: "0",
    Kind.TIME: "1970-01-01 00:00:00+00",
    Kind.UUID: "00000000-0000-0000-0000-000000000000",
}


@dataclass(frozen=True, slots=True)
class LoadedWindow:
    """The rows as COPY text, a line each, columns as in `ROW_COLUMNS`; and how many they are, by outbox."""

    rows: bytes
    counts: Mapping[str, int]

    @property
    def row_count(self) -> int:
        return sum(self.counts.values())


def load(window: SealedWindow, *, max_bytes: int | None) -> LoadedWindow:
    """Read every row of the window. Raises WindowTooLarge when it has several rows and they exceed `max_bytes`."""
    outboxes = all_outboxes()
    body = _BoundedBody(max_bytes=max_bytes if window.row_count > 1 else None)
    counts: dict[str, int] = {}
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_INDEXES_ONLY)
            for name in window.rows:
                copy = cursor.cursor.mogrify(*_rows_sql(outboxes[name], window.id)).decode()
                cursor.copy_expert(f"COPY ({copy}) TO STDOUT", body)
                counts[name] = cursor.rowcount
    except WindowTooLarge:
        connection.close()  # the rest of the COPY is still on its way; a new connection is cheaper than reading it
        raise
    return LoadedWindow(body.getvalue(), counts)


def _rows_sql(outbox: type[Outbox], window_id: UUID) -> tuple[str, tuple[object, ...]]:
    name = outbox.outbox_name()
    known: dict[str, Combinable] = {"outbox": Value(name), "outbox_id": F("id"), "window_id": Value(str(window_id))}
    event_columns = outbox.event_columns()
    # As an array that the planner knows nothing of, it is always looked up index by index. As a join or an IN, the
    # plan hangs on the statistics of a table that is empty or huge by turns: a window then took 27 s instead of 30 ms.
    members = RawSQL(
        "ARRAY(SELECT unnest(ids) FROM pipeline_batch WHERE window_id = %s AND outbox = %s)", [window_id, name]
    )
    is_member = Func(F("id"), members, arg_joiner=" = ANY", template="%(expressions)s", output_field=BooleanField())
    rows = outbox._default_manager.filter(is_member).order_by("id")
    query = rows.values_list(*(_value(column, known, event_columns) for column in ROW_COLUMNS)).query
    # As outer joins, which the planner may not turn round: believing a table to be empty, it would start from users.
    query.alias_map = {
        alias: table.promote() if isinstance(table, Join) else table for alias, table in query.alias_map.items()
    }
    return query.sql_with_params()


def _value(column: Column, known: Mapping[str, Combinable], event_columns: Mapping[str, Combinable]) -> Combinable:
    match column.source:
        case FromPipeline():
            return known[column.name]
        case FromEvent():
            return event_columns.get(column.name, Value(_DEFAULTS[column.kind]))
        case FromContext(key):
            return Coalesce(KeyTextTransform(key, "bound"), Value(_DEFAULTS[column.kind]), output_field=TextField())
        case FromSetting(setting):
            return Value(getattr(settings, setting))


class _BoundedBody(io.BytesIO):
    """Refuses to grow beyond a limit, so that a worker's memory is bounded whatever the payloads are."""

    def __init__(self, *, max_bytes: int | None) -> None:
        super().__init__()
        self._max_bytes = max_bytes

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self._max_bytes is not None and self.tell() + len(data) > self._max_bytes:
            raise WindowTooLarge
        return super().write(data)
