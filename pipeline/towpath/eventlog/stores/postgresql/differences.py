"""How tables with our names may differ from those that `eventlog migrate` creates on PostgreSQL, and how to fix them.

Each difference named here breaks a guarantee. This module only reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath.eventlog.columns import Column, added_columns
from towpath.eventlog.stores.postgresql.schema import INDEX_BY_TIME, TABLE, column_types

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from towpath.eventlog.stores.postgresql.client import PostgreSQLClient

MIGRATIONS, TOKENS = f"{TABLE}_migration", f"{TABLE}_token"

#: The remedy for what cannot be altered.
_MOVE = (
    f"rename the table (ALTER TABLE ... RENAME), drop {MIGRATIONS}, run `python manage.py eventlog migrate`, and copy"
    " its events with INSERT INTO ... SELECT"
)

_KINDS = {
    "r": "a table without partitions",
    "p": "a partitioned table",
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "i": "an index",
    "c": "a type",
}
_RECORD_COLUMNS = {
    "number": "integer",
    "name": "text",
    "checksum": "text",
    "applied_at": "timestamp with time zone",
}
_TOKEN_COLUMNS = {"token": "text", "month": "date", "written_at": "timestamp with time zone"}

#: The remedy if `eventlog migrate` has not run the step yet.
PENDING = "run `python manage.py eventlog migrate`"


def differences(
    client: PostgreSQLClient, own_columns: tuple[Column, ...], *, recorded: frozenset[str]
) -> dict[str, str]:
    """Return each difference of the OBT that breaks a guarantee, with its remedy. `recorded` has the names of the
    applied migrations, which `migrate` does not run again."""
    kind = kind_of(client, TABLE)
    if kind != "p":
        return {f"it is {_KINDS.get(kind, kind)}, not a partitioned table": _MOVE}
    found: dict[str, str] = {}
    ((key, persistence),) = client.query(
        "SELECT pg_get_partkeydef(oid), relpersistence::text FROM pg_class WHERE oid = to_regclass(%(table)s)",
        table=TABLE,
    )
    if key != "RANGE (event_date_time)":
        found[f"its partition key is {key}, not RANGE (event_date_time)"] = _MOVE
    if persistence != "p":
        found["it is unlogged: a crash empties it"] = _MOVE
    partitions = client.query(
        """
        SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = to_regclass(%(table)s) AND (relpersistence <> 'p' OR relkind <> 'r') ORDER BY 1
        """,
        table=TABLE,
    )
    for (name,) in partitions:
        found[f"its partition {name} is not a logged table of this server: a crash can empty it"] = (
            f"run ALTER TABLE {name} SET LOGGED"
        )
    found |= dict(_column_differences(client, own_columns, recorded=recorded))
    found |= dict(_index_differences(client, recorded=recorded))
    checks = client.query(
        """
        SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(%(table)s) AND contype IN ('c', 'f') ORDER BY 1
        """,
        table=TABLE,
    )
    for (name,) in checks:
        remedy = f"run ALTER TABLE {TABLE} DROP CONSTRAINT {name}"
        found[f"it has the constraint {name}: rows that it refuses become dead letters"] = remedy
    return found


def _column_differences(
    client: PostgreSQLClient, own_columns: tuple[Column, ...], *, recorded: frozenset[str]
) -> Iterator[tuple[str, str]]:
    rows = client.query(
        """
        SELECT attname, format_type(atttypid, atttypmod), attgenerated::text || attidentity::text, attnotnull,
            pg_get_expr(adbin, adrelid)
        FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped
        """,
        table=TABLE,
    )
    columns = {name: rest for name, *rest in rows}
    types = column_types(own_columns)
    added = {column.name for column in added_columns(own_columns)}
    for name, wanted in types.items():
        if name not in columns:
            is_pending = name in added and f"column {name}" not in recorded
            remedy = f"run ALTER TABLE {TABLE} ADD COLUMN {name} {wanted} NOT NULL, with a DEFAULT for existing rows"
            yield (
                f"column {name} is missing (it must be {wanted})",
                PENDING if is_pending else remedy if recorded else _MOVE,
            )
            continue
        kind, made, is_required, default = columns[name]
        if kind != wanted:
            yield f"column {name} is {kind}, not {wanted}", _MOVE
        elif made:
            yield f"column {name} is generated, not a plain value", _MOVE
        elif name == "written_at" and default != "clock_timestamp()":
            change = f"ALTER TABLE {TABLE} ALTER written_at SET DEFAULT clock_timestamp()"
            yield f"column written_at has the default {default}, not clock_timestamp()", f"run {change}"
        elif not is_required:
            change = f"ALTER TABLE {TABLE} ALTER {name} SET NOT NULL"
            yield f"column {name} allows NULL, which no event has: somebody has altered it", f"run {change}"
    for name, (_, made, is_required, default) in columns.items():
        if name not in types and is_required and not made and default is None:
            change = f"ALTER TABLE {TABLE} ALTER {name} DROP NOT NULL"
            yield f"column {name}, which no insert fills, does not allow NULL", f"run {change}"


def _index_differences(client: PostgreSQLClient, *, recorded: frozenset[str]) -> Iterator[tuple[str, str]]:
    indexes = client.query(
        """
        SELECT indexrelid::regclass::text, indisunique OR indisexclusion, pg_get_indexdef(indexrelid, 1, true)
        FROM pg_index WHERE indrelid = to_regclass(%(table)s)
        """,
        table=TABLE,
    )
    for name, is_unique, _ in indexes:
        if is_unique:
            yield (
                f"its index {name} is unique: an id that is used again after a restore is refused",
                f"drop the constraint or index {name}",
            )
    if not any(first == "window_id" for _, _, first in indexes):
        statement = f"CREATE INDEX {TABLE}_by_window ON {TABLE} (window_id)"
        yield "it has no index on window_id: a read-back reads the whole table", f"run {statement}"
    if not any(first == "event_date_time" for _, _, first in indexes):
        statement = f"CREATE INDEX {INDEX_BY_TIME} ON {TABLE} (event_date_time, outbox, outbox_id)"
        yield (
            "it has no index on event_date_time: a search for the newest events sorts all of them",
            f"run {statement}" if f"index {INDEX_BY_TIME}" in recorded else PENDING,
        )


def differences_of_record(client: PostgreSQLClient) -> list[str]:
    """Return the reasons why the table of applied migrations is not ours. It is empty if it is ours, or missing."""
    return _plain_table_differences(client, MIGRATIONS, _RECORD_COLUMNS)


def differences_of_tokens(client: PostgreSQLClient) -> list[str]:
    """Return the reasons why the table of tokens is not ours. It is empty if it is ours, or missing."""
    reasons = _plain_table_differences(client, TOKENS, _TOKEN_COLUMNS)
    if not reasons and kind_of(client, TOKENS):
        keys = client.query(
            """
            SELECT pg_get_constraintdef(oid) FROM pg_constraint
            WHERE conrelid = to_regclass(%(table)s) AND contype = 'p'
            """,
            table=TOKENS,
        )
        if keys != [("PRIMARY KEY (token, month)",)]:
            reasons.append("its primary key is not (token, month)")
    return reasons


def _plain_table_differences(client: PostgreSQLClient, name: str, wanted: Mapping[str, str]) -> list[str]:
    """Return the reasons why what has this name is not a plain table with these columns. It is empty if nothing has
    the name."""
    kind = kind_of(client, name)
    if not kind:
        return []
    if kind != "r":
        return [f"it is {_KINDS.get(kind, kind)}, not a table"]
    columns = dict(
        client.query(
            """
            SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
            WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped
            """,
            table=name,
        )
    )
    return [
        f"column {column} is {columns.get(column, 'missing')}, not {kind}"
        for column, kind in wanted.items()
        if columns.get(column) != kind
    ]


def kind_of(client: PostgreSQLClient, name: str) -> str:
    """Return the relkind of what has this name, or "" if nothing has it."""
    rows = client.query("SELECT relkind::text FROM pg_class WHERE oid = to_regclass(%(table)s)", table=name)
    return str(rows[0][0]) if rows else ""
