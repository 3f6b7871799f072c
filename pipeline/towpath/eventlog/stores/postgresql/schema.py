"""The tables of the event store on PostgreSQL: the OBT by months, the tokens, the window that is being written."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from towpath.eventlog.columns import Column, Kind, numbered, row_columns
from towpath.eventlog.store import Migration
from towpath.eventlog.values import DEFAULTS

if TYPE_CHECKING:
    from collections.abc import Sequence

TABLE = "event_log"

#: Creating a month and adding a column exclude each other by this advisory lock.
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
#: Those whose default stands without quotes: a step that is applied never changes, not even in how it is written.
_BARE = frozenset({Kind.WHOLE_NUMBER, Kind.SIGNED_NUMBER, Kind.DECIMAL, Kind.FLOAT, Kind.BOOLEAN})

# The first index is for a search for a type and a time, the second for reading a window back. Neither is unique:
# that a row is stored once is the tokens' doing, and an id comes again, with another event, after the application's
# database was restored from a backup. The order of text is that of its bytes, so that no update of the machine's
# locales can break an index.
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

CREATE_MIGRATIONS = f"""
CREATE TABLE IF NOT EXISTS {TABLE}_migration (
    number integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
    applied_at timestamp with time zone NOT NULL DEFAULT clock_timestamp()
)
"""

#: Where the rows of a write are until they are known to be good; emptied by each commit. No store takes every time
#: that a timestamp of PostgreSQL can be, infinity among them.
WINDOW = "event_log_window"
_CREATE_WINDOW = f"""
CREATE TEMPORARY TABLE IF NOT EXISTS {WINDOW} (
    %(columns)s,
    CONSTRAINT event_date_time_from_1900_to_2299
        CHECK (event_date_time >= '1900-01-01 00:00:00+00' AND event_date_time < '2300-01-01 00:00:00+00')
)
"""


def create_window(own: tuple[Column, ...] = (), *, is_kept: bool) -> str:
    """The statement that makes sure of the table for a transaction; kept for the next one, in a session of our own."""
    columns = ", ".join(f"{column.name} {_TYPES[column.kind]} NOT NULL" for column in row_columns(own))
    return f"{_CREATE_WINDOW % {'columns': columns}} ON COMMIT {'DELETE ROWS' if is_kept else 'DROP'}"


#: The first day of a row's month.
MONTH = "date_trunc('month', event_date_time AT TIME ZONE 'UTC')::date"


def column_types(own: tuple[Column, ...] = ()) -> dict[str, str]:
    """The type of each column of the OBT, with the project's own."""
    return {column.name: _TYPES[column.kind] for column in row_columns(own)} | {"written_at": _TYPES[Kind.TIME]}


def migrations(own: tuple[Column, ...] = ()) -> Sequence[Migration]:
    """Every step, with those of the project's own columns."""
    return [
        Migration(1, f"table {TABLE}", _CREATE_TABLE),
        *(Migration(number, f"column {column.name}", (_add_column(column),)) for number, column in numbered(own)),
    ]


def create_partition(month: date) -> str:
    """The statement that makes sure that the month has a partition."""
    name = f"{TABLE}_{month:%Y_%m}"
    following = date(month.year + month.month // 12, month.month % 12 + 1, 1)
    # As a table that is attached when it is complete: created as a partition, it would lock readers and writers out.
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
