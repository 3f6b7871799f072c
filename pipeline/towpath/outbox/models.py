"""Outbox tables: every row is an event that is not yet in the event store.

A row is inserted in the transaction of the change that it reports, deleted by the pipeline's ack, and never updated.
For a new outbox, a subclass of `LeanOutbox` or `FrozenOutbox` is enough: the pipeline finds it on its own, and
`towpath.outbox.checks` refuses one that would lose events.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar, cast

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, models
from django.db.models import Case, F, Func, Value, When
from django.db.models.lookups import GreaterThan
from django.db.models.signals import post_save, pre_save

from towpath.eventlog.values import EARLIEST, TOO_LATE
from towpath.outbox.context import bound
from towpath.outbox.errors import OnlyInserts
from towpath.outbox.event import Event
from towpath.outbox.fields import RowLimits, TableStorage, TransactionIndex, Xid8Field
from towpath.outbox.insert import (
    ROWS_PER_STATEMENT,
    has_ordinary_values,
    insert_objects,
    require_transaction,
    require_zones,
    stamp_anew,
)
from towpath.outbox.lean import context_json, octets, target_text, text_bytes

if TYPE_CHECKING:
    from django.db.models.expressions import Combinable

M = TypeVar("M", bound=models.Model)

#: A queue's table: dead rows come as fast as live ones, so vacuum goes by count and not by share, without pausing,
#: and does not truncate (that takes an exclusive lock each time the queue runs empty).
_VACUUM = {
    "autovacuum_vacuum_scale_factor": 0,
    "autovacuum_vacuum_threshold": 20000,
    "autovacuum_vacuum_cost_delay": 0,
    "autovacuum_vacuum_insert_scale_factor": 0,
    "autovacuum_vacuum_insert_threshold": 100000,
    "vacuum_truncate": "off",
}
_QUEUE_STORAGE = {
    **_VACUUM,
    "autovacuum_analyze_scale_factor": 0,
    "autovacuum_analyze_threshold": 100000,
    # Each by name: what is said about a table holds for its TOAST table as long as that has no parameter of its own,
    # but vacuum_truncate never does.
    **{f"toast.{name}": value for name, value in _VACUUM.items()},
}

#: The limit of a context and of the bound values, whatever EVENT_CONTEXT_MAX_BYTES says and whatever inserts them: a
#: worker holds several copies of a row in memory. It is a constraint of the tables, so a change needs a migration.
MOST_ROW_BYTES = 64 * 1024 * 1024

#: Bytes that JSON may make of one.
_LONGEST_IN_JSON = 6

_LIMITS = ("id > 0", f"pg_column_size(bound) <= {MOST_ROW_BYTES}")
#: What the event store's columns can hold.
_FROZEN_LIMITS = (
    *_LIMITS,
    f"event_date_time >= timestamptz '{EARLIEST.isoformat(' ')}'",
    f"event_date_time < timestamptz '{TOO_LATE.isoformat(' ')}'",
    "metadata_version >= 0",
    f"octet_length(event_context) <= {MOST_ROW_BYTES}",
)


#: The id of the running transaction (the top-level one, also inside savepoints).
CURRENT_XID = Func(function="pg_current_xact_id", output_field=Xid8Field())


class BoundContextField(models.JSONField):
    """What is bound when a row is made. In a migration it is a plain JSONField: the table has no default."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, default=bound, **kwargs)

    def deconstruct(self) -> tuple[str, str, Sequence[Any], dict[str, Any]]:
        name, _, args, kwargs = super().deconstruct()
        del kwargs["default"]
        return name, "django.db.models.JSONField", args, kwargs


class OutboxQuerySet(models.QuerySet[M]):
    """Rows of an outbox: inserted into `default`, in the transaction of the change that they report, or not at all.

    Database routers are not asked: a replica lacks the newest rows, and accepts none. Anything unusual (a `save` of the
    subclass, receivers of Django's signals, expressions as values) is left to the ORM.
    """

    @property
    def db(self) -> str:
        alias: str | None = self._db  # type: ignore[attr-defined]
        return alias or DEFAULT_DB_ALIAS

    def create(self, **values: Any) -> M:
        """Insert one row, as Django does. Raises NotInTransaction outside `transaction.atomic()`."""
        require_transaction(using=self.db)
        row = self.model(**values)
        if not self._is_ordinary() or not has_ordinary_values(row):
            row.save(force_insert=True)
            return row
        require_zones(row)
        insert_objects(self.model, [row])
        return row

    def bulk_create(self, objs: Iterable[M], batch_size: int | None = None, *args: Any, **conflicts: Any) -> list[M]:
        """Insert rows, a thousand in a statement. Raises NotInTransaction outside `transaction.atomic()`."""
        require_transaction(using=self.db)
        if any(args) or any(conflicts.values()):
            self._refuse("bulk_create() with conflicts", "leaves out events, or changes them")
        rows = list(objs)
        for row in rows:
            require_zones(row)
        if batch_size or not self._is_ordinary() or not all(map(has_ordinary_values, rows)):
            return super().bulk_create(rows, batch_size)
        for start in range(0, len(rows), ROWS_PER_STATEMENT):
            insert_objects(self.model, rows[start : start + ROWS_PER_STATEMENT])
        return rows

    def get_or_create(self, *_args: object, **_values: object) -> NoReturn:
        self._refuse("get_or_create()", "makes no event while an older one is undelivered")

    def update_or_create(self, *_args: object, **_values: object) -> NoReturn:
        self._refuse("update_or_create()", "changes an older event instead of making one")

    def update(self, **_values: object) -> NoReturn:
        self._refuse("update()", "changes events that may already be on their way")

    def bulk_update(self, *_args: object, **_values: object) -> NoReturn:
        self._refuse("bulk_update()", "changes events that may already be on their way")

    def _insert(self, objs: Iterable[M], *args: Any, using: str | None = None, **kwargs: Any) -> Any:
        """Every insert of the ORM comes through here, including those of `save`, fixtures and related managers."""
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

    def _update(self, *_values: object) -> int:
        """What Django tries first with a row that has an id, such as one from a fixture. From 6.1 on, it also names
        the columns that it wants back."""
        if self.exists():
            self._refuse("loading a row with the id of another", "changes an event that may already be on its way")
        return 0

    def _refuse(self, what: str, does: str) -> NoReturn:
        name = self.model.__name__
        raise OnlyInserts(
            f"{name}: {what} {does}. Each event is a row of its own: write {name}.objects.create() or publish()."
        )

    def _is_ordinary(self) -> bool:
        """True if nothing but an INSERT belongs to saving a row."""
        is_watched = pre_save.has_listeners(self.model) or post_save.has_listeners(self.model)
        return self.model.save is Outbox.save and not is_watched


class OutboxBase(models.base.ModelBase):
    """The metaclass of outboxes. It makes Django's `_base_manager` keep the promises of `objects`.

    `Meta.base_manager_name` would do the same, but need a migration in each project.
    """

    @property
    def _base_manager(self) -> models.Manager[Any]:
        return _base_manager(self)


@functools.cache
def _base_manager(model: Any) -> models.Manager[Any]:
    manager: Any = OutboxQuerySet.as_manager()
    manager.name, manager.model, manager.auto_created = "_base_manager", model, True
    return cast("models.Manager[Any]", manager)


class Outbox(models.Model, metaclass=OutboxBase):
    """Base of every outbox table. Subclass `LeanOutbox` or `FrozenOutbox`, not this class."""

    id = models.BigAutoField(primary_key=True)
    #: Which transaction wrote the row: the dispatcher tells new rows from old ones by it, because ids commit out
    #: of order.
    xid = Xid8Field(db_default=CURRENT_XID, editable=False)

    #: Who and what caused the event, as bound when it was published: columns of the event log are filled from it.
    bound = BoundContextField(null=True, editable=False)

    #: The column with the payload, if the table has one: the dispatcher bounds batches by its size (which PostgreSQL
    #: knows without reading the payload).
    payload_column: ClassVar[str | None] = None

    objects = OutboxQuerySet.as_manager()

    class Meta:
        abstract = True
        # Without a name: Django makes one of the table's, which is unique and short enough for any class.
        indexes = (TransactionIndex(fields=["xid", "id"]),)
        constraints = (
            TableStorage(name="%(app_label)s_%(class)s_storage", parameters=_QUEUE_STORAGE),
            RowLimits(name="%(app_label)s_%(class)s_limits", conditions=_LIMITS),
        )

    def save(
        self,
        force_insert: bool | tuple[models.base.ModelBase, ...] = False,  # noqa: FBT001, FBT002, ARG002 - Django's signature
        force_update: bool = False,  # noqa: FBT001, FBT002 - the same
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
    ) -> None:
        """Insert the row. Raises OnlyInserts if it is already stored: events are never changed."""
        require_transaction(using=using or DEFAULT_DB_ALIAS)
        if force_update or update_fields is not None or not self._state.adding:
            name = type(self).__name__
            raise OnlyInserts(
                f"{name}: save() of a stored row changes an event that may already be on its way. Make a new {name}."
            )
        require_zones(self)
        # Otherwise Django would look for the row of a given id, and change that.
        super().save(force_insert=True, using=DEFAULT_DB_ALIAS)

    @classmethod
    def outbox_name(cls) -> str:
        """Return the name of this outbox in batches, windows and the event store: that of its table."""
        return cls._meta.db_table

    @classmethod
    def own_columns(cls) -> tuple[str, ...]:
        """Return the columns that the subclass adds. They fill the event log's `FromEvent` columns of these names."""
        return tuple(field.attname for field in cls._meta.concrete_fields if field.name not in base_fields(cls))

    @classmethod
    def event_columns(cls) -> Mapping[str, Combinable]:
        """Return the ORM expressions that make an event of a row, by the event log's column.

        They are `event_type`, `event_date_time`, `event_context`, `metadata_version`, and the outbox's own columns.
        """
        raise NotImplementedError(f"{cls.__name__} must be a LeanOutbox or a FrozenOutbox")

    @classmethod
    def payload_bytes(cls) -> Combinable:
        """Return an expression for the size of a row's `event_context`, which PostgreSQL finds without reading it."""
        return octets(cls.event_columns()["event_context"])


class LeanOutbox(Outbox):
    """An outbox by reference: a row holds only foreign keys, and the event is built from them when the row is loaded.

    This is the cheapest way to publish, but the log shows the referenced rows as they are about a second after the
    commit. For data that changes or is deleted, use a `FrozenOutbox`. Give the foreign keys `on_delete=PROTECT`, so
    that no undelivered event is deleted with the row that it points to.

    Class attributes:
      event: the Event class. It gives the type, the version, and the order of the context's fields.
      event_date_time: the path of the event's time, as for `values()`, such as `"user__created_at"`.
      event_context: for each field of `event`, the path of its value.
      event_target: what was acted on, with paths in braces, such as `"user:{user_id}"`. It fills the column `target`,
        and the event's `event_outcome` fills `outcome`. Without them, the bound values do.
    """

    event: ClassVar[type[Event]]
    event_date_time: ClassVar[str]
    event_context: ClassVar[Mapping[str, str]]
    event_target: ClassVar[str | None] = None

    class Meta(Outbox.Meta):
        abstract = True

    @classmethod
    def event_columns(cls) -> Mapping[str, Combinable]:
        said: dict[str, Combinable] = {}
        if cls.event_target is not None:
            said["target"] = target_text(cls.event_target)
        if cls.event.event_outcome is not None:
            said["outcome"] = Value(cls.event.event_outcome)
        return {
            **{name: _own_value(cls, name) for name in cls.own_columns()},
            **said,
            "event_type": Value(cls.event.event_type),
            "event_date_time": F(cls.event_date_time),
            "event_context": context_json(cls.event, cls.event_context),
            "metadata_version": Value(cls.event.version),
        }

    @classmethod
    def payload_bytes(cls) -> Combinable:
        # For nearly all rows the sum is enough, and PostgreSQL need not build the context twice.
        parts = text_bytes(cls.event, cls.event_context)
        is_near = GreaterThan(parts, MOST_ROW_BYTES // _LONGEST_IN_JSON)
        return Case(When(is_near, then=super().payload_bytes()), default=parts, output_field=models.BigIntegerField())


class FrozenOutbox(Outbox):
    """An outbox by value: a row holds the event exactly as it was published.

    Class attributes:
      events: the Event classes that `publish()` puts here instead of into `OutboxEvent`. A column that the subclass
        adds is filled from the event's field of the same name.
    """

    event_type = models.TextField()
    event_date_time = models.DateTimeField()
    event_context = models.TextField()
    metadata_version = models.BigIntegerField(default=1)

    payload_column = "event_context"

    events: ClassVar[tuple[type[Event], ...]] = ()

    class Meta(Outbox.Meta):
        abstract = True
        constraints = (
            TableStorage(
                name="%(app_label)s_%(class)s_storage", parameters=_QUEUE_STORAGE, lz4_columns=("event_context",)
            ),
            RowLimits(name="%(app_label)s_%(class)s_limits", conditions=_FROZEN_LIMITS),
        )

    @classmethod
    def event_columns(cls) -> Mapping[str, Combinable]:
        names = ("event_type", "event_date_time", "event_context", "metadata_version")
        return {**{name: F(name) for name in names}, **{name: _own_value(cls, name) for name in cls.own_columns()}}


class OutboxEvent(FrozenOutbox):
    """The general outbox: where `publish()` puts events that no other outbox names."""

    class Meta(FrozenOutbox.Meta):
        db_table = "outbox_event"
        verbose_name = "undelivered event"


def _own_value(outbox: type[Outbox], name: str) -> Combinable:
    """Return the expression for a column that the outbox adds."""
    field: Any = next(field for field in outbox._meta.concrete_fields if field.attname == name)
    while field.is_relation:
        field = field.target_field
    if isinstance(field, models.GenericIPAddressField):
        # Its text would otherwise end in /32.
        return Func(F(name), function="host", output_field=models.TextField())
    return F(name)


def all_outboxes() -> dict[str, type[Outbox]]:
    """Return every concrete outbox of the installed apps, by name, sorted by name."""
    found = (model for model in apps.get_models() if issubclass(model, Outbox) and not model._meta.proxy)
    return {model.outbox_name(): model for model in sorted(found, key=lambda model: model.outbox_name())}


@functools.cache
def outbox_of(event: type[Event]) -> type[FrozenOutbox]:
    """Return the outbox into which `publish()` puts events of this class."""
    # A form of a generic event (`Changed[int]`) goes where the event goes, unless an outbox names the form.
    for kind in (event, event.__pydantic_generic_metadata__["origin"]):
        for outbox in all_outboxes().values():
            if issubclass(outbox, FrozenOutbox) and kind in outbox.events:
                return outbox
    return OutboxEvent


def base_fields(outbox: type[Outbox]) -> dict[str, models.Field[Any, Any]]:
    """Return the fields that every outbox of this kind has, by name."""
    kind = next(kind for kind in (LeanOutbox, FrozenOutbox, Outbox) if issubclass(outbox, kind))
    return {field.name: field for field in kind._meta.local_fields}
