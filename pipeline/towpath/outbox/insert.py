"""Insert: rows of an outbox, with handwritten statements, because the ORM's cost more than the rows themselves."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn, TypeVar

from django.db import DEFAULT_DB_ALIAS, connection, connections, models, transaction
from django.db.models.expressions import DatabaseDefault
from django.utils import timezone

from towpath import driver
from towpath.outbox.errors import EventNotStorable, NotInTransaction, WrongDatabase

M = TypeVar("M", bound=models.Model)

#: The rows of one INSERT. More would only make the statement's text longer.
ROWS_PER_STATEMENT = 1000

#: Columns that PostgreSQL fills.
_FILLED_BY_POSTGRESQL = ("id", "xid")


def require_transaction(*, using: str = DEFAULT_DB_ALIAS) -> None:
    """Raise NotInTransaction outside `transaction.atomic()`, WrongDatabase for rows of another database."""
    if using != DEFAULT_DB_ALIAS:
        raise WrongDatabase(
            f"An event cannot be written into the database {using!r}: the pipeline reads outboxes in 'default' only."
            " Leave out using(), and publish in a transaction of 'default'."
        )
    if not connection.in_atomic_block:
        raise NotInTransaction(
            others=[one.alias for one in connections.all(initialized_only=True) if one.in_atomic_block]
        )


def stamp_anew(row: models.Model) -> None:
    """Reset what a copied row brings along: the transaction id of the original, which the dispatcher saw long ago."""
    field = {field.name: field for field in row._meta.concrete_fields}["xid"]
    if not isinstance(field.value_from_object(row), DatabaseDefault):
        setattr(row, field.attname, field.get_default())


def insert(table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, returning: str = "") -> list[Any]:
    """Insert all rows with one statement. Returns what it returns, in the order of the rows."""
    with driver.cursor() as cursor:
        into, values = _insert_sql(table, tuple(columns))
        cursor.execute(f"{into} VALUES {', '.join([values] * len(rows))} {returning}", [*itertools.chain(*rows)])
        if cursor.rowcount != len(rows):
            _refuse_to_lose(table, stored=cursor.rowcount, of=len(rows))
        return cursor.fetchall() if returning else []


def _refuse_to_lose(table: str, *, stored: int, of: int) -> NoReturn:
    if stored:
        transaction.set_rollback(True)  # some of the events and not the others would be committed
    raise EventNotStorable(
        f"PostgreSQL has stored {stored} of {of} rows of {table}, without an error: a trigger or a rule of that table"
        " removes the others. See `pipeline doctor`."
    )


@functools.cache
def _insert_sql(table: str, columns: tuple[str, ...]) -> tuple[str, str]:
    """Return `INSERT INTO` up to its values, and the placeholders of a row."""
    quote = connection.ops.quote_name
    names = ", ".join(map(quote, columns))
    return f"INSERT INTO {quote(table)} ({names})", f"({', '.join(['%s'] * len(columns))})"


def insert_objects(model: type[M], rows: Sequence[M]) -> None:
    """Insert all rows with one statement. They have their ids afterwards."""
    fields = _fields(model)
    values = [[field.get_db_prep_save(field.pre_save(row, add=True), connection) for field in fields] for row in rows]
    columns = [str(field.column) for field in fields]
    found = insert(model._meta.db_table, columns, values, returning="RETURNING id")
    for row, (id_,) in zip(rows, found, strict=True):
        row.pk = id_
        row._state.adding = False
        row._state.db = DEFAULT_DB_ALIAS


@functools.cache
def _fields(model: type[models.Model]) -> tuple[models.Field[Any, Any], ...]:
    return tuple(
        field
        for field in model._meta.concrete_fields
        if field.name not in _FILLED_BY_POSTGRESQL and not field.generated
    )


def require_zones(row: models.Model) -> None:
    """Raise EventNotStorable for a time without a time zone, which Django would take to be in the zone of its
    settings."""
    for name in _times(type(row)):
        value = getattr(row, name)
        if isinstance(value, datetime) and timezone.is_naive(value):
            raise EventNotStorable(f"{type(row).__name__}: its {name} {value} has no time zone: give it one")


@functools.cache
def _times(model: type[models.Model]) -> tuple[str, ...]:
    return tuple(field.attname for field in _fields(model) if isinstance(field, models.DateTimeField))


@functools.cache
def _foreign_keys(model: type[models.Model]) -> frozenset[str]:
    return frozenset(field.attname for field in _fields(model) if field.is_relation)


def has_ordinary_values(row: models.Model) -> bool:
    """True if the row has plain values, and PostgreSQL gives id and xid."""
    values = row.__dict__
    if values["id"] is not None or not isinstance(values["xid"], DatabaseDefault):
        return False
    foreign_keys = _foreign_keys(type(row))
    # None may be an object that was saved after it was assigned, or was not saved at all; the ORM sees to that.
    return not any(
        values[field.attname] is None if field.attname in foreign_keys else hasattr(values[field.attname], "as_sql")
        for field in _fields(type(row))
    )
