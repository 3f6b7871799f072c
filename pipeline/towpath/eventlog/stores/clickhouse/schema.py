"""The OBT on ClickHouse: the table, its migrations, and how a table of that name may differ from it.

A promise rests on each difference that is named here: what merges drop or replace rows, what makes two blocks of one
month, what expires, what refuses, what makes a value up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from towpath.eventlog.columns import ADDED_COLUMNS, ROW_COLUMNS, Column, Kind
from towpath.eventlog.schema import FIRST_COLUMN_NUMBER, Migration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TABLE = "event_log"

#: Tokens the table remembers. A replay is recognised while fewer inserts than this came in between; after that
#: the pipeline's read-back is what keeps a row from being stored twice.
_TOKEN_LOG_ENTRIES = 10_000

#: Settings of the table on which the promises stand (system.merge_tree_settings names).
TABLE_SETTINGS = {
    "non_replicated_deduplication_window": _TOKEN_LOG_ENTRIES,
    # Off by default: an acknowledged insert would be in the page cache only, and the ack deletes the original.
    "fsync_after_insert": 1,
    "fsync_part_directory": 1,
}
#: Windows make parts of a thousand rows under steady load. Merged as soon as there are a few, they took a third of the
#: engine's time; ten at once are merged less often. Costs nothing in correctness, and up to nine small parts to read.
_MERGE_SETTINGS = {"min_parts_to_merge_at_once": 10}

_TYPES = {Kind.TEXT: "String", Kind.WHOLE_NUMBER: "UInt64", Kind.TIME: "DateTime64(6, 'UTC')", Kind.UUID: "UUID"}
_CODECS = {
    Kind.TEXT: "ZSTD(1)",
    Kind.WHOLE_NUMBER: "Delta, ZSTD(1)",
    Kind.TIME: "Delta, ZSTD(1)",
    Kind.UUID: "ZSTD(1)",
}

_PARTITION_KEY = "toYYYYMM(event_date_time)"
_SORTING_KEY = "event_type, event_date_time, outbox, outbox_id"
#: The engines whose merges keep every row as it is.
_ENGINES = frozenset({"MergeTree", "ReplicatedMergeTree", "SharedMergeTree"})

# event_type comes first in the sorting key, so that a search for a type and a time reads one stretch; window_id is
# nearly constant within a granule (a window is written at once), so the bloom filter skips nearly all of them.
_CREATE_TABLE = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
    event_type      String CODEC(ZSTD(1)),
    event_date_time DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    environment     String CODEC(ZSTD(1)),
    event_context   String CODEC(ZSTD(3)),
    metadata_version UInt64 CODEC(ZSTD(1)),
    outbox          String CODEC(ZSTD(1)),
    outbox_id       UInt64 CODEC(Delta, ZSTD(1)),
    window_id       UUID CODEC(ZSTD(1)),
    written_at      DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    INDEX window_id_bloom window_id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY {_PARTITION_KEY}
ORDER BY ({_SORTING_KEY})
SETTINGS {", ".join(f"{name} = {value}" for name, value in (TABLE_SETTINGS | _MERGE_SETTINGS).items())}
"""

COLUMN_TYPES = {column.name: _TYPES[column.kind] for column in ROW_COLUMNS} | {"written_at": _TYPES[Kind.TIME]}

_ADDED = {column.name for column in ADDED_COLUMNS}

MIGRATION_COLUMNS = {"number": "UInt32", "name": "String", "checksum": "String", "applied_at": "DateTime('UTC')"}
CREATE_MIGRATIONS = f"""
CREATE TABLE IF NOT EXISTS {TABLE}_migration (
    number UInt32, name String, checksum String, applied_at DateTime('UTC') DEFAULT now()
) ENGINE = MergeTree ORDER BY number
"""


def migrations() -> Sequence[Migration]:
    return [
        Migration(1, f"table {TABLE}", (_CREATE_TABLE,)),
        *(
            Migration(FIRST_COLUMN_NUMBER + place, f"column {column.name}", (_add_column(column),))
            for place, column in enumerate(ADDED_COLUMNS)
        ),
    ]


def _add_column(column: Column) -> str:
    kind = f"{_TYPES[column.kind]} CODEC({_CODECS[column.kind]})"
    return f"ALTER TABLE {TABLE} ADD COLUMN IF NOT EXISTS {column.name} {kind}"


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a table: its type, and what gives its value when none is inserted."""

    kind: str
    #: DEFAULT, MATERIALIZED, ALIAS or EPHEMERAL, and its expression; empty: none.
    default: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of our name, as the server describes it."""

    database: str
    name: str
    engine: str
    partition_key: str
    sorting_key: str
    primary_key: str
    ddl: str
    columns: Mapping[str, TableColumn]
    #: The server's own values of _WATCHED_SETTINGS, where the table sets none.
    server_settings: Mapping[str, str]

    @property
    def bare_ddl(self) -> str:
        """Without what stands in quotes, where any word may stand."""
        return re.sub(r"'(?:[^'\\]|\\.|'')*'|`(?:[^`\\]|\\.)*`", "''", self.ddl)

    def setting(self, name: str) -> str:
        """The value that is in force."""
        own = re.search(rf"\b{name} = '?(\w+)", self.ddl.rpartition(" SETTINGS ")[2])
        return own[1] if own else self.server_settings.get(name, "0")


WATCHED_SETTINGS = (*TABLE_SETTINGS, "replicated_deduplication_window", "async_insert")


@dataclass(frozen=True, slots=True)
class Difference:
    """Of a table from the OBT: what is different, and the statement or the advice that puts it right."""

    what: str
    remedy: str
    #: True of a step that `eventlog migrate` still has to take.
    is_pending: bool = False


def differences(table: Table, *, is_recorded: bool) -> Iterator[Difference]:
    """What a promise would miss. `is_recorded`: migrate has made the table, so it will not take its steps again."""
    alter = f"run ALTER TABLE {table.name}"
    if table.engine not in _ENGINES:
        yield Difference(f"its engine is {table.engine}, not MergeTree or ReplicatedMergeTree", _MOVE)
        return
    for key, wanted in (("partition", _PARTITION_KEY), ("sorting", _SORTING_KEY), ("primary", _SORTING_KEY)):
        found = getattr(table, f"{key}_key")
        if found != wanted:
            yield Difference(f"its {key} key is {found or 'empty'}, not {wanted}", _MOVE)
    yield from _column_differences(table, is_recorded=is_recorded)
    if re.search(r"\bTTL\b", table.bare_ddl):
        yield Difference(
            "it has a TTL: an event older than that vanishes when it is inserted, and its receipt becomes an alarm",
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
        yield Difference("the index window_id_bloom is missing: a read-back reads everything", f"{alter} ADD {index}")
    yield from _setting_differences(table)


#: What cannot be altered.
_MOVE = (
    f"rename the table (RENAME TABLE {TABLE} TO {TABLE}_before), drop {TABLE}_migration, run `python manage.py eventlog"
    " migrate`, and copy its events with INSERT INTO ... SELECT; or name another database in EVENT_STORE_URL"
)


def _column_differences(table: Table, *, is_recorded: bool) -> Iterator[Difference]:
    added = {column.name: f"{_TYPES[column.kind]} CODEC({_CODECS[column.kind]})" for column in ROW_COLUMNS}
    for name, wanted in COLUMN_TYPES.items():
        column = table.columns.get(name)
        default = "DEFAULT now64(6, 'UTC')" if name == "written_at" else ""
        if column is None:
            is_pending = not is_recorded and name in _ADDED
            definition = added.get(name, f"{wanted} {default}")
            remedy = f"run ALTER TABLE {table.name} ADD COLUMN {name} {definition}" if is_recorded else _MOVE
            yield Difference(f"column {name} is missing, not {wanted}", remedy, is_pending=is_pending)
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
            "table setting async_insert is on: it wins over that of an insert, and answers before the rows are stored",
            f"run ALTER TABLE {table.name} MODIFY SETTING async_insert = 0",
        )
