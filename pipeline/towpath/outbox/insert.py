"""Insert: rows of an outbox, in statements written by hand, because the ORM's cost more than the rows themselves.

What is out of the ordinary (a `save` of its own, receivers of Django's signals, expressions as values) is left to
the ORM.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NoReturn, TypeVar, cast

from django.db import DEFAULT_DB_ALIAS, connection, connections, models, transaction
from django.db.models.expressions import DatabaseDefault
from django.db.models.signals import post_save, pre_save
from django.utils import timezone

from towpath.outbox.errors import EventNotStorable, NotInTransaction, OnlyInserts, WrongDatabase

M = TypeVar("M", bound=models.Model)

#: An INSERT takes this many rows: more only make the statement's text larger.
ROWS_PER_STATEMENT = 1000

#: PostgreSQL gives these.
_GIVEN = ("id", "xid")


class OutboxQuerySet(models.QuerySet[M]):
    """Rows of an outbox: inserted into `default`, in the transaction of what they report, or not at all.

    No router is asked where they are: a replica has not the newest ones, and takes none.
    """

    @property
    def db(self) -> str:
        alias: str | None = self._db  # type: ignore[attr-defined]
        return alias or DEFAULT_DB_ALIAS

    def create(self, **values: Any) -> M:  # noqa: ANN401 - as Django's
        """As Django's. Raises NotInTransaction outside `transaction.atomic()`."""
        require_transaction(using=self.db)
        row = self.model(**values)
        if not self._is_ordinary() or not _has_ordinary_values(row):
            row.save(force_insert=True)
            return row
        require_zones(row)
        _insert_objects(self.model, [row])
        return row

    def bulk_create(self, objs: Iterable[M], batch_size: int | None = None, *args: Any, **conflicts: Any) -> list[M]:  # noqa: ANN401
        """As Django's, a thousand rows to a statement. Raises NotInTransaction outside `transaction.atomic()`."""
        require_transaction(using=self.db)
        if any(args) or any(conflicts.values()):
            self._refuse("bulk_create() with conflicts", "leaves out events, or changes them")
        rows = list(objs)
        for row in rows:
            require_zones(row)
        if batch_size or not self._is_ordinary() or not all(map(_has_ordinary_values, rows)):
            return super().bulk_create(rows, batch_size)
        for start in range(0, len(rows), ROWS_PER_STATEMENT):
            _insert_objects(self.model, rows[start : start + ROWS_PER_STATEMENT])
        return rows

    def get_or_create(self, *_args: object, **_values: object) -> NoReturn:
        self._refuse("get_or_create()", "makes no event while an older one is undelivered")

    def update_or_create(self, *_args: object, **_values: object) -> NoReturn:
        self._refuse("update_or_create()", "changes an older event instead of making one")

    def update(self, **_values: object) -> NoReturn:
        self._refuse("update()", "changes events that may be on their way already")

    def bulk_update(self, *_args: object, **_values: object) -> NoReturn:
        self._refuse("bulk_update()", "changes events that may be on their way already")

    def _insert(self, objs: Iterable[M], *args: Any, using: str | None = None, **kwargs: Any) -> Any:  # noqa: ANN401
        """Where every insert of the ORM's passes: those of `save`, of fixtures and of related managers, too."""
        require_transaction(using=using or self.db)
        rows = list(objs)
        for row in rows:
            stamp_anew(row)
        # Not even as DEFAULT: a role that only publishes lacks the privilege on the column.
        kwargs["fields"] = [field for field in kwargs["fields"] if field.name != "xid"]
        return super()._insert(rows, *args, using=DEFAULT_DB_ALIAS, **kwargs)  # type: ignore[misc]

    # Django's managers pass a private method on only if it says so.
    _insert.alters_data = True  # type: ignore[attr-defined]
    _insert.queryset_only = False  # type: ignore[attr-defined]

    def _update(self, _values: object) -> int:
        """What Django tries first with a row that has an id, such as one from a fixture."""
        if self.exists():
            self._refuse("loading a row with the id of another", "changes an event that may be on its way already")
        return 0

    def _refuse(self, what: str, does: str) -> NoReturn:
        name = self.model.__name__
        raise OnlyInserts(
            f"{name}: {what} {does}. Each event is a row of its own: write {name}.objects.create() or publish()."
        )

    def _is_ordinary(self) -> bool:
        """True if nothing but an INSERT belongs to saving a row."""
        is_watched = pre_save.has_listeners(self.model) or post_save.has_listeners(self.model)
        return getattr(self.model.save, "is_only_an_insert", False) and not is_watched


class OutboxBase(models.base.ModelBase):
    """The metaclass of outboxes. What Django calls `_base_manager` keeps the promises of `objects`, too.

    `Meta.base_manager_name` would do the same, and be a migration in each project.
    """

    @property
    def _base_manager(self) -> models.Manager[Any]:
        return _base_manager(self)


@functools.cache
def _base_manager(model: Any) -> models.Manager[Any]:  # noqa: ANN401 - a model, which its metaclass does not know to be one
    manager: Any = OutboxQuerySet.as_manager()
    manager.name, manager.model, manager.auto_created = "_base_manager", model, True
    return cast("models.Manager[Any]", manager)


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
    """A copy of a row brings the transaction id of the old one, which the dispatcher has seen long ago."""
    field = {field.name: field for field in row._meta.concrete_fields}["xid"]
    if not isinstance(field.value_from_object(row), DatabaseDefault):
        setattr(row, field.attname, field.get_default())


def insert(table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, returning: str = "") -> list[Any]:
    """One statement for all rows; what it returns, in the order of the rows."""
    with connection.cursor() as cursor:
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
        " takes them away. See `pipeline doctor`."
    )


@functools.cache
def _insert_sql(table: str, columns: tuple[str, ...]) -> tuple[str, str]:
    """`INSERT INTO` up to its values, and the placeholders of a row."""
    quote = connection.ops.quote_name
    names = ", ".join(map(quote, columns))
    return f"INSERT INTO {quote(table)} ({names})", f"({', '.join(['%s'] * len(columns))})"


def _insert_objects(model: type[M], rows: Sequence[M]) -> None:
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
    return tuple(field for field in model._meta.concrete_fields if field.name not in _GIVEN and not field.generated)


def require_zones(row: models.Model) -> None:
    """Raise EventNotStorable for a time without a zone, which Django would take for one of its own settings' zone."""
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


def _has_ordinary_values(row: models.Model) -> bool:
    """True if the row's values are values, and PostgreSQL is to give id and xid."""
    values = row.__dict__
    if values["id"] is not None or not isinstance(values["xid"], DatabaseDefault):
        return False
    foreign_keys = _foreign_keys(type(row))
    # None may be an object that was saved after it was assigned, or was not saved at all; the ORM sees to that.
    return not any(
        values[field.attname] is None if field.attname in foreign_keys else hasattr(values[field.attname], "as_sql")
        for field in _fields(type(row))
    )
