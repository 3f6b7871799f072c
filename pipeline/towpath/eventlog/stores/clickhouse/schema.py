"""The tables of the event store on ClickHouse: the OBT by months, and the record of its migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath.eventlog.columns import Column, Kind, numbered, row_columns
from towpath.eventlog.store import Migration

if TYPE_CHECKING:
    from collections.abc import Sequence

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

_TYPES = {
    Kind.TEXT: "String",
    Kind.LOW_CARDINALITY_TEXT: "LowCardinality(String)",
    Kind.BOOLEAN: "Bool",
    Kind.WHOLE_NUMBER: "UInt64",
    Kind.SIGNED_NUMBER: "Int64",
    Kind.DECIMAL: "Decimal(38, 9)",
    Kind.FLOAT: "Float64",
    Kind.TIME: "DateTime64(6, 'UTC')",
    Kind.UUID: "UUID",
}
#: What often changes by little from row to row.
_DELTA = frozenset({Kind.WHOLE_NUMBER, Kind.SIGNED_NUMBER, Kind.TIME})

PARTITION_KEY = "toYYYYMM(event_date_time)"
SORTING_KEY = "event_type, event_date_time, outbox, outbox_id"

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
PARTITION BY {PARTITION_KEY}
ORDER BY ({SORTING_KEY})
SETTINGS {", ".join(f"{name} = {value}" for name, value in (TABLE_SETTINGS | _MERGE_SETTINGS).items())}
"""

MIGRATION_COLUMNS = {"number": "UInt32", "name": "String", "checksum": "String", "applied_at": "DateTime('UTC')"}
CREATE_MIGRATIONS = f"""
CREATE TABLE IF NOT EXISTS {TABLE}_migration (
    number UInt32, name String, checksum String, applied_at DateTime('UTC') DEFAULT now()
) ENGINE = MergeTree ORDER BY number
"""


def column_types(own: tuple[Column, ...] = ()) -> dict[str, str]:
    """The type of each column of the OBT, with the project's own."""
    return {column.name: _TYPES[column.kind] for column in row_columns(own)} | {"written_at": _TYPES[Kind.TIME]}


def migrations(own: tuple[Column, ...] = ()) -> Sequence[Migration]:
    """Every step, with those of the project's own columns."""
    return [
        Migration(1, f"table {TABLE}", (_CREATE_TABLE,)),
        *(Migration(number, f"column {column.name}", (_add_column(column),)) for number, column in numbered(own)),
    ]


def definition(column: Column) -> str:
    """What stands after an added column's name."""
    return f"{_TYPES[column.kind]} CODEC({'Delta, ' * (column.kind in _DELTA)}ZSTD(1))"


def _add_column(column: Column) -> str:
    return f"ALTER TABLE {TABLE} ADD COLUMN IF NOT EXISTS {column.name} {definition(column)}"
