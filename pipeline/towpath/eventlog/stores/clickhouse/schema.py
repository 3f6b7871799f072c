"""The tables of the event store on ClickHouse: the OBT, partitioned by month, and the record of its migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath.eventlog.columns import Column, Kind, numbered, row_columns
from towpath.eventlog.store import Migration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TABLE = "event_log"

#: Tokens that the table remembers. It recognises a replay as long as fewer inserts than this came in between. After
#: that, the pipeline's read-back keeps a row from being stored twice.
_TOKEN_LOG_ENTRIES = 10_000

#: Table settings that the guarantees depend on, by their names in system.merge_tree_settings.
TABLE_SETTINGS = {
    "non_replicated_deduplication_window": _TOKEN_LOG_ENTRIES,
    # Off by default: an acknowledged insert would only be in the page cache, and the ack deletes the original.
    "fsync_after_insert": 1,
    "fsync_part_directory": 1,
}
#: Under steady load, each window makes parts of about a thousand rows. Merging them as soon as there are a few took a
#: third of the engine's time, so they wait until there are ten. Reads then meet up to nine small parts; correctness
#: does not depend on it.
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
#: Kinds whose values often change little from row to row.
_DELTA = frozenset({Kind.WHOLE_NUMBER, Kind.SIGNED_NUMBER, Kind.TIME})

PARTITION_KEY = "toYYYYMM(event_date_time)"
SORTING_KEY = "event_date_time, outbox, outbox_id"
#: Columns whose values are rare. They have an index: a search for a value reads only the granules that may contain it.
_SEARCHED = frozenset({"actor", "request_id", "target"})

# Sorted by time, so that a search reads the newest events from the end, however many there are, and so that events are
# stored in the order in which they arrive (docs/decisions/0024-sorted-by-time.md). Bloom filters skip the granules
# without a rare type, or without a window, whose rows are written together.
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
    INDEX window_id_bloom window_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX event_type_bloom event_type TYPE bloom_filter(0.001) GRANULARITY 1
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


def column_types(own: tuple[Column, ...]) -> dict[str, str]:
    """Return the ClickHouse type of each column of the OBT, including the project's own columns."""
    return {column.name: _TYPES[column.kind] for column in row_columns(own)} | {"written_at": _TYPES[Kind.TIME]}


def migrations(own: tuple[Column, ...] = ()) -> Sequence[Migration]:
    """Return every migration in order, including those for the project's own columns."""
    return [
        Migration(1, f"table {TABLE}", (_CREATE_TABLE,)),
        *(Migration(number, f"column {column.name}", (*_add_column(column),)) for number, column in numbered(own)),
    ]


def definition(column: Column) -> str:
    """Return the type and the codec of an added column."""
    return f"{_TYPES[column.kind]} CODEC({'Delta, ' * (column.kind in _DELTA)}ZSTD(1))"


#: The names of our indexes.
INDEXES = ("window_id_bloom", "event_type_bloom", *(f"{name}_bloom" for name in sorted(_SEARCHED)))


def _add_column(column: Column) -> Iterator[str]:
    yield f"ALTER TABLE {TABLE} ADD COLUMN IF NOT EXISTS {column.name} {definition(column)}"
    if column.name in _SEARCHED:
        index = f"{column.name}_bloom {column.name} TYPE bloom_filter(0.01) GRANULARITY 1"
        yield f"ALTER TABLE {TABLE} ADD INDEX IF NOT EXISTS {index}"
