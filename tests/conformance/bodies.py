"""Rows as COPY text, as a load makes it, in a project whose values have one text each."""

from __future__ import annotations

import io
from collections.abc import Sequence

from tests.conformance.rows import OWN_COLUMNS, row
from towpath import driver
from towpath.eventlog.columns import BASE_COLUMNS, Kind, added_columns, row_columns
from towpath.eventlog.stores.memory import StoredRow
from towpath.eventlog.values import as_text
from towpath.flow import load

#: Of all kinds whose values have one text.
EXACT = tuple(column for column in OWN_COLUMNS if column.kind is not Kind.FLOAT)
EXACT_ADDED = tuple(
    value
    for column, value in zip(added_columns(OWN_COLUMNS), row(1).added, strict=True)
    if column.kind is not Kind.FLOAT
)
_AS_SQL = {
    Kind.WHOLE_NUMBER: "bigint",
    Kind.SIGNED_NUMBER: "bigint",
    Kind.DECIMAL: "numeric(38, 9)",
    Kind.TIME: "timestamptz",
    Kind.UUID: "uuid",
    Kind.BOOLEAN: "boolean",
}


def copied(rows: Sequence[StoredRow]) -> bytes:
    """The rows as PostgreSQL's COPY writes them, in a load's session and as a load casts them."""
    columns = row_columns(EXACT)
    values = [[getattr(one, column.name) for column in BASE_COLUMNS] + list(one.added) for one in rows]
    texts = [as_text(value.decode() if isinstance(value, bytes) else value) for row in values for value in row]
    casts = ", ".join(f"%s::{_AS_SQL.get(column.kind, 'text')}::text" for column in columns)
    query = " UNION ALL ".join([f"SELECT {casts}"] * len(rows))
    body = io.BytesIO()
    driver.copy_out(query, texts, settings=load._SESSION, to=body)
    return body.getvalue()
