"""What an outbox needs of PostgreSQL that Django does not know: xid8 and its index, storage parameters, row limits.

Migrations of applications refer to this module, and to nothing else of Towpath. So it imports only Django, and needs no
settings and no installed application. A project that has left Towpath can keep a copy of it for its old migrations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models.constraints import BaseConstraint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor

    AnyField = models.Field[Any, Any]
else:
    AnyField = models.Field  # Django's is not generic, unless a project patches it


class Xid8Field(AnyField):
    """A 64-bit transaction id, which never wraps around."""

    description = "PostgreSQL transaction id (xid8)"

    def db_type(self, connection: BaseDatabaseWrapper) -> str:  # noqa: ARG002 - Django's signature
        return "xid8"

    def from_db_value(self, value: str | None, _expression: object, _connection: object) -> int | None:
        return None if value is None else int(value)

    def get_prep_value(self, value: Any) -> str | None:
        # Both drivers would send a number, which PostgreSQL does not compare with an xid8.
        value = super().get_prep_value(value)
        return str(value) if isinstance(value, int) else value


class TransactionIndex(models.Index):
    """An index that begins with `xid`. Only queries whose condition includes `IN_INDEX` use it.

    It is a partial index that leaves out no row. A plain index might be chosen to find rows by `id` if the outbox was
    empty when its statistics were taken: the planner would think it free, and a window would read the whole index, with
    an entry for each row that vacuum could not remove.
    """

    #: True of every row.
    IN_INDEX = "xid >= '0'"

    def _get_condition_sql(self, *_: object) -> str:
        return self.IN_INDEX


class TableStorage(BaseConstraint):
    """Storage parameters of a table, as an entry of `Meta.constraints`, so that makemigrations includes them.

    Parameters:
      parameters: what goes into `ALTER TABLE ... SET (...)`.
      lz4_columns: columns whose large values are compressed with lz4 (far faster than pglz), if the server has it.
      uncompressed_columns: columns whose large values are stored as they are.
    """

    def __init__(
        self,
        *,
        name: str,
        parameters: dict[str, Any],
        lz4_columns: tuple[str, ...] = (),
        uncompressed_columns: tuple[str, ...] = (),
    ) -> None:
        super().__init__(name=name)
        self.parameters = parameters
        self.lz4_columns = tuple(lz4_columns)
        self.uncompressed_columns = tuple(uncompressed_columns)

    def constraint_sql(self, model: type[models.Model] | None, schema_editor: BaseDatabaseSchemaEditor | None) -> str:
        if model is not None and schema_editor is not None:
            schema_editor.deferred_sql.append(self.create_sql(model, schema_editor))
        return ""

    def create_sql(self, model: type[models.Model] | None, schema_editor: BaseDatabaseSchemaEditor | None) -> str:
        if model is None or schema_editor is None:
            raise TypeError("a table's storage parameters need its model and a schema editor")
        table = schema_editor.quote_name(model._meta.db_table)
        settings = ", ".join(f"{name} = {value}" for name, value in self.parameters.items())
        compression = "".join(
            # Not every server is built with lz4, and PostgreSQL 13 does not know the clause.
            f"BEGIN ALTER TABLE {table} ALTER COLUMN {schema_editor.quote_name(column)} SET COMPRESSION lz4; "
            "EXCEPTION WHEN feature_not_supported OR syntax_error THEN NULL; END; "
            for column in self.lz4_columns
        )
        external = "".join(
            f"ALTER TABLE {table} ALTER COLUMN {schema_editor.quote_name(column)} SET STORAGE EXTERNAL; "
            for column in self.uncompressed_columns
        )
        return f"DO $$ BEGIN ALTER TABLE {table} SET ({settings}); {external}{compression}END $$"

    def remove_sql(self, model: type[models.Model] | None, schema_editor: BaseDatabaseSchemaEditor | None) -> str:
        if model is None or schema_editor is None:
            raise TypeError("a table's storage parameters need its model and a schema editor")
        return f"ALTER TABLE {schema_editor.quote_name(model._meta.db_table)} RESET ({', '.join(self.parameters)})"

    def validate(self, *args: object, **kwargs: object) -> None:
        """Do nothing: storage parameters say nothing about a row."""

    def deconstruct(self) -> tuple[str, Sequence[Any], dict[str, Any]]:
        path, args, kwargs = super().deconstruct()
        columns = {"lz4_columns": self.lz4_columns, "uncompressed_columns": self.uncompressed_columns}
        given = {name: value for name, value in columns.items() if value}
        return path, args, {**kwargs, "parameters": self.parameters, **given}

    def __eq__(self, other: object) -> bool:
        # Without the name, which PostgreSQL never sees: tables whose migrations used another name stay as they are.
        return isinstance(other, TableStorage) and _without_name(self) == _without_name(other)

    def __hash__(self) -> int:
        return hash(TableStorage)


class RowLimits(BaseConstraint):
    """Conditions in SQL that a new row of the table must meet, as an entry of `Meta.constraints`.

    Unlike Django's CheckConstraint, it is added to an existing table without reading it, and leaves its rows alone. So
    a migration neither waits for a scan nor fails on an old row.
    """

    def __init__(self, *, name: str, conditions: Sequence[str]) -> None:
        super().__init__(name=name)
        self.conditions = tuple(conditions)

    def constraint_sql(self, model: type[models.Model] | None, schema_editor: BaseDatabaseSchemaEditor | None) -> str:  # noqa: ARG002 - Django's signature
        if schema_editor is None:
            raise TypeError("the limits of a table's rows need a schema editor")
        return f"CONSTRAINT {schema_editor.quote_name(self.name)} CHECK ({' AND '.join(self.conditions)})"

    def create_sql(self, model: type[models.Model] | None, schema_editor: BaseDatabaseSchemaEditor | None) -> str:
        if model is None or schema_editor is None:
            raise TypeError("the limits of a table's rows need its model and a schema editor")
        table = schema_editor.quote_name(model._meta.db_table)
        return f"ALTER TABLE {table} ADD {self.constraint_sql(model, schema_editor)} NOT VALID"

    def remove_sql(self, model: type[models.Model] | None, schema_editor: BaseDatabaseSchemaEditor | None) -> str:
        if model is None or schema_editor is None:
            raise TypeError("the limits of a table's rows need its model and a schema editor")
        table = schema_editor.quote_name(model._meta.db_table)
        return f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {schema_editor.quote_name(self.name)}"

    def validate(self, *args: object, **kwargs: object) -> None:
        """Do nothing: `publish()` refuses such values itself, and says why."""

    def deconstruct(self) -> tuple[str, Sequence[Any], dict[str, Any]]:
        path, args, kwargs = super().deconstruct()
        return path, args, {**kwargs, "conditions": self.conditions}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowLimits) and self.deconstruct() == other.deconstruct()

    def __hash__(self) -> int:
        return hash(self.name)


def _without_name(storage: TableStorage) -> dict[str, Any]:
    return {name: value for name, value in storage.deconstruct()[2].items() if name != "name"}
