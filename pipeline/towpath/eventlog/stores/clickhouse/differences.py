"""How tables with our names may differ from those that `eventlog migrate` creates on ClickHouse, and how to fix them.

Each difference named here breaks a guarantee: merges drop or replace rows, one month becomes two blocks, rows expire,
rows are refused, or values are made up. This module only reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from towpath.eventlog.columns import Column, added_columns, row_columns
from towpath.eventlog.stores.clickhouse.client import NotGranted
from towpath.eventlog.stores.clickhouse.schema import (
    MIGRATION_COLUMNS,
    PARTITION_KEY,
    SORTING_KEY,
    TABLE,
    TABLE_SETTINGS,
    column_types,
    definition,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from towpath.eventlog.stores.clickhouse.client import ClickHouseClient

MIGRATIONS = f"{TABLE}_migration"

#: The engines whose merges keep every row as it is.
_ENGINES = frozenset({"MergeTree", "ReplicatedMergeTree", "SharedMergeTree"})
_WATCHED_SETTINGS = (*TABLE_SETTINGS, "replicated_deduplication_window", "async_insert")

#: The remedy for what cannot be altered.
_MOVE = (
    f"rename the table (RENAME TABLE {TABLE} TO {TABLE}_before), drop {TABLE}_migration, run `python manage.py eventlog"
    " migrate`, and copy its events with INSERT INTO ... SELECT; or name another database in EVENT_STORE_URL"
)


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a table: its type, and where its value comes from when none is inserted."""

    kind: str
    #: DEFAULT, MATERIALIZED, ALIAS or EPHEMERAL, with its expression. Empty means none.
    default: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with one of our names, as the server describes it."""

    database: str
    name: str
    engine: str
    partition_key: str
    sorting_key: str
    primary_key: str
    ddl: str
    columns: Mapping[str, TableColumn]
    #: The server's values of _WATCHED_SETTINGS, which apply where the table sets none.
    server_settings: Mapping[str, str]

    @property
    def bare_ddl(self) -> str:
        """The DDL with empty quotes: a quoted text may contain any keyword."""
        return re.sub(r"'(?:[^'\\]|\\.|'')*'|`(?:[^`\\]|\\.)*`", "''", self.ddl)

    def setting(self, name: str) -> str:
        """Return the value in force: the table's, or else the server's."""
        own = re.search(rf"\b{name} = '?(\w+)", self.ddl.rpartition(" SETTINGS ")[2])
        return own[1] if own else self.server_settings.get(name, "0")


def describe(client: ClickHouseClient, name: str) -> Table | None:
    """Return the table, view or dictionary with this name in our database, or None. Raises StoreUnavailable."""
    found = client.query(
        """
        SELECT database, engine, partition_key, sorting_key, primary_key, create_table_query FROM system.tables
        WHERE database = currentDatabase() AND name = %(table)s
        """,
        table=name,
    )
    if not found:
        return None
    database, engine, partition_key, sorting_key, primary_key, ddl = found[0]
    columns = client.query(
        """
        SELECT name, type, default_kind, default_expression FROM system.columns
        WHERE database = currentDatabase() AND table = %(table)s
        """,
        table=name,
    )
    return Table(
        database=database,
        name=name,
        engine=engine,
        partition_key=partition_key,
        sorting_key=sorting_key,
        primary_key=primary_key,
        ddl=ddl,
        columns={column: TableColumn(kind, f"{how} {what}".strip()) for column, kind, how, what in columns},
        server_settings=_server_settings(client),
    )


def _server_settings(client: ClickHouseClient) -> dict[str, str]:
    """Return the server's settings for every table. It is empty if the user may not see them."""
    try:
        rows = client.query(
            "SELECT name, value FROM system.merge_tree_settings WHERE name IN %(names)s", names=_WATCHED_SETTINGS
        )
    except NotGranted:
        return {}
    return {str(name): str(value) for name, value in rows}


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between a table and the OBT, and the statement or the advice that fixes it."""

    what: str
    remedy: str
    #: True if `eventlog migrate` has not run this step yet.
    is_pending: bool = False


def differences(table: Table, own_columns: tuple[Column, ...], *, recorded: frozenset[str]) -> Iterator[Difference]:
    """Yield each difference that breaks a guarantee. `recorded` has the names of the applied migrations, which
    `migrate` does not run again."""
    alter = f"run ALTER TABLE {table.name}"
    if table.engine not in _ENGINES:
        yield Difference(f"its engine is {table.engine}, not MergeTree or ReplicatedMergeTree", _MOVE)
        return
    for key, wanted in (("partition", PARTITION_KEY), ("sorting", SORTING_KEY), ("primary", SORTING_KEY)):
        found = getattr(table, f"{key}_key")
        if found != wanted:
            yield Difference(f"its {key} key is {found or 'empty'}, not {wanted}", _MOVE)
    yield from _column_differences(table, own_columns, recorded=recorded)
    if re.search(r"\bTTL\b", table.bare_ddl):
        yield Difference(
            "it has a TTL: an event older than that vanishes when it is inserted, and its receipt raises an alarm",
            f"{alter} REMOVE TTL (of a column: ALTER TABLE {table.name} MODIFY COLUMN ... REMOVE TTL), and delete old"
            " events by partition: ALTER TABLE ... DROP PARTITION",
        )
    if constraints := re.findall(r"\bCONSTRAINT (\S+)", table.bare_ddl):
        names = re.findall(r"\bCONSTRAINT (`[^`]+`|\w+)", table.ddl) or constraints
        yield Difference(
            f"it has constraints ({', '.join(names)}): rows that they refuse become dead letters",
            "; ".join(f"{alter} DROP CONSTRAINT {name}" for name in names),
        )
    if not re.search(r"\bINDEX `?window_id_bloom`? `?window_id`? TYPE bloom_filter", table.ddl):
        index = "INDEX window_id_bloom window_id TYPE bloom_filter(0.001) GRANULARITY 1"
        yield Difference(
            "the index window_id_bloom is missing: a read-back reads the whole table", f"{alter} ADD {index}"
        )
    yield from _setting_differences(table)


def _column_differences(
    table: Table, own_columns: tuple[Column, ...], *, recorded: frozenset[str]
) -> Iterator[Difference]:
    definitions = {column.name: definition(column) for column in row_columns(own_columns)}
    added = {column.name for column in added_columns(own_columns)}
    for name, wanted in column_types(own_columns).items():
        column = table.columns.get(name)
        default = "DEFAULT now64(6, 'UTC')" if name == "written_at" else ""
        if column is None:
            is_pending = name in added and f"column {name}" not in recorded
            column_definition = definitions.get(name, f"{wanted} {default}")
            remedy = f"run ALTER TABLE {table.name} ADD COLUMN {name} {column_definition}" if recorded else _MOVE
            yield Difference(f"column {name} is missing (it must be {wanted})", remedy, is_pending=is_pending)
        elif column.kind != wanted:
            yield Difference(f"column {name} is {column.kind}, not {wanted}", _MOVE)
        elif column.default != default:
            change = f"{wanted} {default}" if default else f"REMOVE {column.default.split()[0]}"
            yield Difference(
                f"column {name} has {column.default or 'no default'}, not {default or 'a plain value'}",
                f"run ALTER TABLE {table.name} MODIFY COLUMN {name} {change}",
            )


def _setting_differences(table: Table) -> Iterator[Difference]:
    wanted: dict[str, int] = dict(TABLE_SETTINGS)
    if table.engine != "MergeTree":
        wanted = {"replicated_deduplication_window": 1} if table.engine == "ReplicatedMergeTree" else {}
    for name, value in wanted.items():
        found = table.setting(name)
        if not found.isdigit() or int(found) < value:
            yield Difference(
                f"table setting {name} is not {value}", f"run ALTER TABLE {table.name} MODIFY SETTING {name} = {value}"
            )
    if table.setting("async_insert") not in {"0", "false"}:
        yield Difference(
            "table setting async_insert is on: it overrides the setting of an insert, and answers before the rows"
            " are stored",
            f"run ALTER TABLE {table.name} MODIFY SETTING async_insert = 0",
        )


def differences_of_record(record: Table) -> list[str]:
    """Return the reasons why the table of applied migrations is not ours. It is empty if the table is ours."""
    found = {name: column.kind for name, column in record.columns.items()}
    reasons = [
        f"column {name} is {found.get(name, 'missing')}, not {kind}"
        for name, kind in MIGRATION_COLUMNS.items()
        if found.get(name) != kind
    ]
    if not record.engine.endswith("MergeTree"):
        reasons.append(f"its engine is {record.engine}, not MergeTree")
    return reasons
