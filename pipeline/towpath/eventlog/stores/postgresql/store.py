"""The event store on PostgreSQL, on connections of its own, in its own tables.

A window's rows are copied into a table of the session's own first. Then one message has the server take the tokens,
move the rows of those months whose token is new into the OBT, and commit: however the client ends, all of that happens
or nothing, and no lock ever waits for a client.
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from towpath import driver
from towpath.eventlog.columns import Column, row_columns
from towpath.eventlog.errors import OutcomeUnknown, StoreUnavailable
from towpath.eventlog.proof import covered
from towpath.eventlog.rows import have_one_text
from towpath.eventlog.store import Digest, Finding, Migration, StoredEvent, stored_event, streamed_columns
from towpath.eventlog.stores.postgresql import keeping, proof, surroundings
from towpath.eventlog.stores.postgresql.client import PostgreSQLClient
from towpath.eventlog.stores.postgresql.errors import (
    brief,
    is_partition_missing,
    lacking,
    translated,
    translated_of_commit,
)
from towpath.eventlog.stores.postgresql.schema import (
    CREATE_MIGRATIONS,
    MONTH,
    SCHEMA_LOCK,
    TABLE,
    WINDOW,
    create_partition,
    create_window,
    migrations,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from towpath.eventlog.proof import RowDigest, WindowDigest
    from towpath.eventlog.store import Change, MaskedRow, Wanted

#: Databases that exist on every server, to ask from whether ours does.
_MAINTENANCE_DATABASE = "postgres"

#: For how long a token is remembered. After that the pipeline's read-back is what keeps a row from being stored twice.
_TOKEN_DAYS = 7

#: How long a new column may wait for the table. Every write queues up behind it meanwhile.
_LOCK_SECONDS = 5

#: Rows that `stream` asks for at a time.
_PAGE_ROWS = 1000

# Two tokens are forgotten for each that comes, so that they never pile up and no write has to clear many. A trigger
# that leaves rows out fails the division, and nothing is committed.
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


class PostgreSQLStore:
    """A `Store` in a PostgreSQL database. Safe to share between threads; connects at first use."""

    def __init__(self, url: str, *, timeout_seconds: float, own_columns: tuple[Column, ...] = ()) -> None:
        self._client = PostgreSQLClient(url, timeout_seconds=timeout_seconds)
        self._own_columns = own_columns
        self._columns = ", ".join(column.name for column in row_columns(own_columns))
        #: Those that were there when last looked.
        self._months: set[date] = set()

    def migrations(self) -> Sequence[Migration]:
        return migrations(self._own_columns)

    def applied_migrations(self) -> Mapping[int, tuple[str, str]]:
        return surroundings.applied_migrations(self._client) if self._has_database() else {}

    def apply_migration(self, migration: Migration) -> None:
        if not self._has_database():
            name = '"' + self._client.database.replace('"', '""') + '"'
            self._client.query_elsewhere(
                f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'", database=_MAINTENANCE_DATABASE
            )
        try:
            with self._client.cursor() as cursor:
                record = driver.with_parameters(
                    cursor,
                    f"""
                    INSERT INTO {TABLE}_migration (number, name, checksum)
                    VALUES (%(number)s, %(name)s, %(checksum)s)
                    ON CONFLICT (number) DO UPDATE SET name = excluded.name, checksum = excluded.checksum
                    """,
                    {"number": migration.number, "name": migration.name, "checksum": migration.checksum},
                )
                cursor.execute(
                    ";".join(
                        (
                            f"BEGIN; SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'",
                            f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})",
                            *(CREATE_MIGRATIONS, *migration.statements, record),
                            "COMMIT",
                        )
                    )
                )
        except driver.Error as error:
            raise StoreUnavailable(f"{brief(error)}: run it again") from error

    def foreign_tables(self) -> Sequence[str]:
        return surroundings.foreign_tables(self._client, self._own_columns) if self._has_database() else []

    def problems(self) -> Sequence[str]:
        return surroundings.table_problems(self._client, self._own_columns)

    def reading_problems(self) -> Sequence[str]:
        return surroundings.reading_problems(self._client)

    def findings(self) -> Sequence[Finding]:
        return surroundings.findings(self._client)

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:
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

    def read_back(self, window_id: UUID) -> set[tuple[str, int]]:
        rows = self._client.query(
            f"SELECT outbox, outbox_id FROM {TABLE} WHERE window_id = %(window)s", window=str(window_id)
        )
        return {(outbox, outbox_id) for outbox, outbox_id in rows}

    def counts(self, window_ids: Sequence[UUID]) -> Mapping[UUID, Mapping[str, int]]:
        counts: dict[UUID, dict[str, int]] = {}
        rows = self._client.query(
            f"""
            SELECT window_id::text, outbox, count(*) FROM {TABLE}
            WHERE window_id = ANY(%(windows)s::uuid[]) GROUP BY 1, 2
            """,
            windows=[str(window_id) for window_id in window_ids],
        )
        for window_id, outbox, stored in rows:
            counts.setdefault(UUID(window_id), {})[outbox] = stored
        return counts

    def stream(
        self, event_type: str, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[StoredEvent]:
        conditions = ["event_type = %(event_type)s"]
        if since is not None:
            conditions.append("event_date_time >= %(since)s")
        if until is not None:
            conditions.append("event_date_time < %(until)s")
        columns = ", ".join(streamed_columns(self._own_columns))
        after = ""
        position: dict[str, object] = {}
        while True:
            # The ties come with it, so that a row that is stored twice is streamed twice also at the end of a page.
            rows = self._client.query(
                f"""
                SELECT {columns} FROM {TABLE} WHERE {" AND ".join(conditions)} {after}
                ORDER BY event_date_time, outbox, outbox_id FETCH FIRST {_PAGE_ROWS} ROWS WITH TIES
                """,
                event_type=event_type,
                since=since,
                until=until,
                **position,
            )
            for row in rows:
                event = stored_event(row, self._own_columns)
                yield event
            if len(rows) < _PAGE_ROWS:
                return
            after = "AND (event_date_time, outbox, outbox_id) > (%(time)s, %(outbox)s, %(outbox_id)s)"
            position = {"time": event.event_date_time, "outbox": event.outbox, "outbox_id": event.outbox_id}

    def stored_targets(self, event_type: str, targets: Sequence[str], *, since: datetime, until: datetime) -> set[str]:
        rows = self._client.query(
            f"""
            SELECT DISTINCT target FROM {TABLE} WHERE event_type = %(event_type)s
            AND event_date_time >= %(since)s AND event_date_time <= %(until)s AND target = ANY(%(targets)s::text[])
            """,
            event_type=event_type,
            since=since,
            until=until,
            targets=list(targets),
        )
        return {target for (target,) in rows}

    def digests(self, table: str | None, *, since: datetime, until: datetime, slack: timedelta) -> Iterator[Digest]:
        name = ".".join('"' + part.replace('"', '""') + '"' for part in (table or TABLE).split("."))
        rows = self._client.query(
            f"""
            SELECT event_type::text COLLATE "C", md5(event_context::text), min(event_date_time::timestamptz),
                count(*) FILTER (WHERE event_date_time >= %(since)s AND event_date_time < %(until)s), count(*)
            FROM {name} WHERE event_date_time >= %(earliest)s AND event_date_time < %(latest)s
            GROUP BY 1, 2 ORDER BY 1, 2
            """,
            since=since,
            until=until,
            earliest=since - slack,
            latest=until + slack,
        )
        for event_type, digest, first_at, count, around in rows:
            yield Digest(event_type, digest, first_at.astimezone(UTC), count, around)

    def covered_columns(self) -> tuple[str, ...]:
        return covered(self._own_columns)

    def window_digests(self, window_ids: Sequence[UUID], *, columns: Sequence[str]) -> Sequence[WindowDigest]:
        sql = proof.digests_of_windows(columns, self._own_columns)
        return proof.window_digests(self._client.query(sql, windows=[str(window_id) for window_id in window_ids]))

    def row_digests(self, window_id: UUID, *, columns: Sequence[str]) -> Sequence[RowDigest]:
        return self.row_digests_of([window_id], columns=columns).get(window_id, [])

    def body_digests(self, windows: Mapping[UUID, Sequence[str]]) -> Mapping[UUID, str]:
        if not have_one_text(row_columns(self._own_columns)):
            return {}
        orders = json.dumps({str(window_id): list(outboxes) for window_id, outboxes in windows.items()})
        rows = self._client.query(proof.digests_of_bodies(self._own_columns), windows=orders)
        return {UUID(window_id): digest for window_id, digest in rows}

    def months(self) -> Sequence[date]:
        partitions = self._client.query(proof.PARTITIONS) or [(TABLE, "")]
        return sorted(month for (month,) in self._client.query(proof.months(partitions)))

    def windows_of(self, month: date) -> Iterator[UUID]:
        since, until = proof.bounds(month)
        page: list[tuple[Any, ...]] = []
        while True:
            page = self._client.query(
                proof.windows_of(is_first=not page), since=since, until=until, after=page[-1][0] if page else None
            )
            yield from (UUID(window_id) for (window_id,) in page)
            if len(page) < proof.PAGE_WINDOWS:
                return

    def keeping_problems(self, change: Change) -> Sequence[str]:
        return surroundings.keeping_problems(self._client, change)

    def drop_month(self, month: date) -> None:
        since, until = proof.bounds(month)
        partitions = [name for (name,) in self._client.query(keeping.PARTITIONS, since=since, until=until)]
        self._change(keeping.drop_month(partitions), {"since": since, "until": until})
        self._months.discard(month.replace(day=1))

    def find_windows(self, wanted: Wanted, *, month: date) -> Sequence[UUID]:
        since, until = proof.bounds(month)
        condition, parameters = keeping.conditions(wanted)
        rows = self._client.query(
            f"""
            SELECT DISTINCT window_id::text FROM {TABLE}
            WHERE event_date_time >= %(since)s AND event_date_time < %(until)s AND {condition}
            """,
            since=since,
            until=until,
            **parameters,
        )
        return [UUID(window_id) for (window_id,) in rows]

    def row_digests_of(
        self, window_ids: Sequence[UUID], *, columns: Sequence[str]
    ) -> Mapping[UUID, Sequence[RowDigest]]:
        sql = proof.digests_of_rows(columns, self._own_columns)
        return proof.row_digests(self._client.query(sql, windows=[str(window_id) for window_id in window_ids]))

    def read_rows(self, window_ids: Sequence[UUID], wanted: Wanted) -> Sequence[StoredEvent]:
        condition, parameters = keeping.conditions(wanted)
        rows = self._client.query(
            f"""
            SELECT {", ".join(streamed_columns(self._own_columns))} FROM {TABLE}
            WHERE window_id = ANY(%(windows)s::uuid[]) AND {condition}
            """,
            windows=[str(window_id) for window_id in window_ids],
            **parameters,
        )
        return [stored_event(row, self._own_columns) for row in rows]

    def rewrite(self, rows: Sequence[MaskedRow], *, mask: str) -> None:
        for statement, parameters in keeping.updates(rows, mask=mask) if rows else ():
            self._change(statement, parameters)

    def now(self) -> datetime:
        moment: datetime = self._client.query("SELECT clock_timestamp()")[0][0]
        return moment.astimezone(UTC)

    def close(self) -> None:
        self._client.close()

    def _change(self, sql: str, parameters: Mapping[str, object]) -> None:
        try:
            with self._client.cursor() as cursor:
                cursor.execute(driver.with_parameters(cursor, sql, parameters))
        except driver.Error as error:
            raise StoreUnavailable(brief(error) + lacking(error, user=self._client.user)) from error

    def _has_database(self) -> bool:
        try:
            self._client.query("SELECT 1")
        except StoreUnavailable:
            name = self._client.database
            found = self._client.query_elsewhere(
                "SELECT 1 FROM pg_database WHERE datname = %(name)s", database=_MAINTENANCE_DATABASE, name=name
            )
            if found:
                raise
            return False
        return True

    def _create(self, months: set[date]) -> None:
        """Make sure that the months have partitions."""
        for month in sorted(months):
            self._client.query(create_partition(month))
            self._months.add(month)

    def _copy(self, cursor: Any, rows: bytes) -> tuple[set[date], int]:
        """The rows into the session's own table; their months, and how many they are."""
        begin = f"BEGIN; {create_window(self._own_columns, is_kept=not self._client.is_pooled)}"
        copied = driver.copy_in(cursor, rows, before=begin, to=f"{WINDOW} ({self._columns})")
        cursor.execute(f"SELECT DISTINCT {MONTH} FROM {WINDOW}")
        return {month for (month,) in cursor.fetchall()}, copied
