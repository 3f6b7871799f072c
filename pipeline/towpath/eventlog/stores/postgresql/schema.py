"""The tables of the event store on PostgreSQL: the OBT, partitioned by month; the tokens; and the window that is being
written.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from towpath.eventlog.columns import Column, Kind, numbered, row_columns
from towpath.eventlog.store import Migration
from towpath.eventlog.values import DEFAULTS

if TYPE_CHECKING:
    from collections.abc import Sequence

TABLE = "event_log"

#: The advisory lock that keeps migrations and the creation or removal of months apart.
SCHEMA_LOCK = 5_208_140_023

_TYPES = {
    Kind.TEXT: "text",
    Kind.LOW_CARDINALITY_TEXT: "text",
    Kind.BOOLEAN: "boolean",
    Kind.WHOLE_NUMBER: "bigint",
    Kind.SIGNED_NUMBER: "bigint",
    Kind.DECIMAL: "numeric(38,9)",
    Kind.FLOAT: "double precision",
    Kind.TIME: "timestamp with time zone",
    Kind.UUID: "uuid",
}
#: Kinds whose default is written without quotes. An applied migration never changes, not even in its quotes.
_BARE = frozenset({Kind.WHOLE_NUMBER, Kind.SIGNED_NUMBER, Kind.DECIMAL, Kind.FLOAT, Kind.BOOLEAN})

# The first index is for a search by type and time, the second for reading a window back. Neither is unique: the tokens
# ensure that a row is stored once, and after a restore of the application's database, an id can come again with another
# event. Indexed text is ordered by its bytes, so that no update of the machine's locales can break an index.
_CREATE_TABLE = (
    f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
    event_type text COLLATE "C" NOT NULL,
    event_date_time timestamp with time zone NOT NULL,
    environment text NOT NULL,
    event_context text NOT NULL,
    metadata_version bigint NOT NULL,
    outbox text COLLATE "C" NOT NULL,
    outbox_id bigint NOT NULL,
    window_id uuid NOT NULL,
    written_at timestamp with time zone NOT NULL DEFAULT clock_timestamp()
) PARTITION BY RANGE (event_date_time)
""",
    f"CREATE INDEX IF NOT EXISTS {TABLE}_by_type ON {TABLE} (event_type, event_date_time, outbox, outbox_id)",
    f"CREATE INDEX IF NOT EXISTS {TABLE}_by_window ON {TABLE} (window_id)",
    f"""
CREATE TABLE IF NOT EXISTS {TABLE}_token (
    token text NOT NULL,
    month date NOT NULL,
    written_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (token, month)
)
""",
    f"CREATE INDEX IF NOT EXISTS {TABLE}_token_by_time ON {TABLE}_token (written_at)",
)

#: The index that finds the newest events of all types. Inserts wait while it is built, unless the partitions already
#: have a matching one (docs/stores.md).
INDEX_BY_TIME = f"{TABLE}_by_time"
_CREATE_INDEX_BY_TIME = (f"CREATE INDEX IF NOT EXISTS {INDEX_BY_TIME} ON {TABLE} (event_date_time, outbox, outbox_id)",)

CREATE_MIGRATIONS = f"""
CREATE TABLE IF NOT EXISTS {TABLE}_migration (
    number integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
    applied_at timestamp with time zone NOT NULL DEFAULT clock_timestamp()
)
"""

#: The table that holds the rows of a write until they are known to be good. Each commit empties it. Its constraint
#: refuses times that not every store can hold, such as infinity.
WINDOW = "event_log_window"
_CREATE_WINDOW = f"""
CREATE TEMPORARY TABLE IF NOT EXISTS {WINDOW} (
    %(columns)s,
    CONSTRAINT event_date_time_from_1900_to_2299
        CHECK (event_date_time >= '1900-01-01 00:00:00+00' AND event_date_time < '2300-01-01 00:00:00+00')
)
"""


def create_window(own: tuple[Column, ...], *, is_kept: bool) -> str:
    """Return the statement that ensures that the transaction has the table. With `is_kept`, the table stays for the
    session's next transaction."""
    columns = ", ".join(f"{column.name} {_TYPES[column.kind]} NOT NULL" for column in row_columns(own))
    return f"{_CREATE_WINDOW % {'columns': columns}} ON COMMIT {'DELETE ROWS' if is_kept else 'DROP'}"


#: The first day of a row's month, in UTC.
MONTH = "date_trunc('month', event_date_time AT TIME ZONE 'UTC')::date"


def column_types(own: tuple[Column, ...]) -> dict[str, str]:
    """Return the PostgreSQL type of each column of the OBT, including the project's own columns."""
    return {column.name: _TYPES[column.kind] for column in row_columns(own)} | {"written_at": _TYPES[Kind.TIME]}


def migrations(own: tuple[Column, ...] = ()) -> Sequence[Migration]:
    """Return every migration in order, including those for the project's own columns."""
    return [
        Migration(1, f"table {TABLE}", _CREATE_TABLE),
        Migration(2, f"index {INDEX_BY_TIME}", _CREATE_INDEX_BY_TIME),
        *(Migration(number, f"column {column.name}", (_add_column(column),)) for number, column in numbered(own)),
    ]


def create_partition(month: date) -> str:
    """Return the statement that ensures that the month has a partition. `month` is its first day."""
    name = f"{TABLE}_{month:%Y_%m}"
    following = date(month.year + month.month // 12, month.month % 12 + 1, 1)
    # A table that is attached once it is complete: creating it as a partition would lock readers and writers out.
    return f"""
DO $$ BEGIN
    PERFORM pg_advisory_xact_lock({SCHEMA_LOCK});
    IF to_regclass('{name}') IS NULL THEN
        CREATE TABLE {name} (LIKE {TABLE} INCLUDING ALL);
        ALTER TABLE {TABLE} ATTACH PARTITION {name}
            FOR VALUES FROM ('{month} 00:00:00+00') TO ('{following} 00:00:00+00');
    ELSIF NOT EXISTS (
        SELECT FROM pg_inherits WHERE inhrelid = to_regclass('{name}') AND inhparent = to_regclass('{TABLE}')
    ) THEN
        RAISE EXCEPTION 'the table {name} is not a partition of {TABLE}: rename it, or attach it';
    END IF;
END $$
"""


def _add_column(column: Column) -> str:
    default = DEFAULTS[column.kind] if column.kind in _BARE else f"'{DEFAULTS[column.kind]}'"
    kind = f"{_TYPES[column.kind]} NOT NULL DEFAULT {default}"
    return f"ALTER TABLE {TABLE} ADD COLUMN IF NOT EXISTS {column.name} {kind}"
