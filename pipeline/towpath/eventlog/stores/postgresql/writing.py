"""How a window gets into the OBT on PostgreSQL.

Its rows are first copied into a temporary table of the session. Then one message makes the server record the tokens,
move the rows of the months whose token is new into the OBT, and commit. Whatever happens to the client, all of that
happens or nothing does, and no lock on the OBT is held while the server waits for a client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from towpath import driver
from towpath.eventlog.columns import Column, row_columns
from towpath.eventlog.errors import OutcomeUnknown
from towpath.eventlog.stores.postgresql.errors import is_partition_missing, translated, translated_of_commit
from towpath.eventlog.stores.postgresql.schema import MONTH, TABLE, WINDOW, create_partition, create_window

if TYPE_CHECKING:
    from datetime import date

    from towpath.eventlog.stores.postgresql.client import PostgreSQLClient

#: How long a token is remembered. After that, the pipeline's read-back keeps a row from being stored twice.
_TOKEN_DAYS = 7

# Each write deletes at most two expired tokens, so that they never pile up and no write has to delete many. If a
# trigger leaves out rows, the division fails, and nothing is committed.
_STORE = f"""
WITH forgotten AS (
    DELETE FROM {TABLE}_token WHERE (token, month) IN (
        SELECT token, month FROM {TABLE}_token WHERE written_at < statement_timestamp() - interval '{_TOKEN_DAYS} days'
        ORDER BY written_at LIMIT 2 FOR UPDATE SKIP LOCKED
    )
), fresh AS (
    INSERT INTO {TABLE}_token (token, month)
    SELECT %(token)s, month FROM unnest(%(months)s::date[]) AS month ORDER BY month
    ON CONFLICT DO NOTHING RETURNING month
), stored AS (
    INSERT INTO {TABLE} (COLUMNS) SELECT COLUMNS FROM {WINDOW} WHERE {MONTH} IN (SELECT month FROM fresh) RETURNING 1
)
SELECT 1 / ((SELECT count(*) FROM stored)
    = (SELECT count(*) FROM {WINDOW} WHERE {MONTH} IN (SELECT month FROM fresh)))::int;
COMMIT
"""


class Writer:
    """Writes windows. Safe to share between threads."""

    def __init__(self, client: PostgreSQLClient, own_columns: tuple[Column, ...]) -> None:
        self._client = client
        self._own_columns = own_columns
        self._columns = ", ".join(column.name for column in row_columns(own_columns))
        #: Months that had a partition when we last looked.
        self._months: set[date] = set()

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:
        """Write the rows as `EventStore.write` promises, and raise what it raises."""
        with self._client.cursor() as cursor:
            try:
                months, copied = self._copy(cursor, rows)
            except driver.Error as error:
                raise translated(error) from error
            if copied < row_count:
                raise OutcomeUnknown(f"{copied} of {row_count} rows were sent to the event store")
            self._create(months - self._months)
            try:
                cursor.execute(_STORE.replace("COLUMNS", self._columns), {"token": token, "months": sorted(months)})
            except driver.Error as error:
                if is_partition_missing(error):
                    self._months.clear()
                raise translated_of_commit(error) from error

    def forget(self, month: date) -> None:
        """Note that the month has been dropped: the next write to it creates its partition."""
        self._months.discard(month.replace(day=1))

    def _create(self, months: set[date]) -> None:
        """Ensure that the months have partitions."""
        for month in sorted(months):
            self._client.query(create_partition(month))
            self._months.add(month)

    def _copy(self, cursor: Any, rows: bytes) -> tuple[set[date], int]:
        """Copy the rows into the session's table. Return their months, and the number of rows."""
        begin = f"BEGIN; {create_window(self._own_columns, is_kept=not self._client.is_pooled)}"
        copied = driver.copy_in(cursor, rows, before=begin, to=f"{WINDOW} ({self._columns})")
        cursor.execute(f"SELECT DISTINCT {MONTH} FROM {WINDOW}")
        return {month for (month,) in cursor.fetchall()}, copied
