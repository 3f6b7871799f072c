"""The event store on PostgreSQL. It has its own connections and its own tables."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from towpath import driver
from towpath.eventlog.columns import Column, row_columns
from towpath.eventlog.errors import StoreUnavailable
from towpath.eventlog.proof import covered
from towpath.eventlog.rows import have_one_text
from towpath.eventlog.search import FoundEvents
from towpath.eventlog.store import Digest, Finding, Migration
from towpath.eventlog.stored import StoredEvent, stored_event, streamed_columns
from towpath.eventlog.stores.postgresql import keeping, proof, search, surroundings
from towpath.eventlog.stores.postgresql.client import PostgreSQLClient
from towpath.eventlog.stores.postgresql.errors import brief, lacking
from towpath.eventlog.stores.postgresql.query import where
from towpath.eventlog.stores.postgresql.schema import CREATE_MIGRATIONS, SCHEMA_LOCK, TABLE, migrations
from towpath.eventlog.stores.postgresql.writing import Writer
from towpath.eventlog.values import NO_WINDOW

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from towpath.eventlog.proof import RowDigest, WindowDigest
    from towpath.eventlog.query import Query
    from towpath.eventlog.search import Bar, FoundEvent, Position
    from towpath.eventlog.store import Change, MaskedRow

#: A database that exists on every server. From there, we can ask whether ours exists, and create it.
_MAINTENANCE_DATABASE = "postgres"

#: How long a migration may wait for a lock on the table. Every write queues up behind it in the meantime.
_LOCK_SECONDS = 5

#: Rows on a page of `stream`.
_PAGE_ROWS = 1000


class PostgreSQLStore:
    """A `Store` in a PostgreSQL database. Safe to share between threads; connects at first use."""

    def __init__(self, url: str, *, timeout_seconds: float, own_columns: tuple[Column, ...] = ()) -> None:
        self._client = PostgreSQLClient(url, timeout_seconds=timeout_seconds)
        self._own_columns = own_columns
        self._writer = Writer(self._client, own_columns)

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
                            CREATE_MIGRATIONS,
                            *migration.statements,
                            record,
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
        self._writer.write(rows, row_count=row_count, token=token)

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
            # With ties, so that a row that is stored twice is streamed twice even at the end of a page.
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

    def search(
        self,
        query: Query,
        *,
        since: datetime,
        until: datetime,
        before: Position | None = None,
        rows: int,
        most_characters: int | None = None,
        seconds: float,
    ) -> FoundEvents:
        sql, parameters = search.page(
            query,
            since=since,
            until=until,
            before=before,
            rows=rows,
            most_characters=most_characters,
            own=self._own_columns,
            server=self._client.server(),
        )
        return self._searched(sql, parameters, seconds=seconds)

    def histogram(
        self, query: Query, *, since: datetime, until: datetime, step: timedelta, seconds: float
    ) -> Sequence[Bar]:
        sql, parameters = search.bars(query, since=since, until=until, step=step, server=self._client.server())
        return search.found_bars(self._client.query_within(sql, parameters, seconds=seconds), step=step)

    def one(self, position: Position, *, seconds: float) -> Sequence[FoundEvent]:
        return list(self._searched(*search.at(position, own=self._own_columns), seconds=seconds))

    def _searched(self, sql: str, parameters: dict[str, Any], *, seconds: float) -> FoundEvents:
        return FoundEvents.of_rows(self._client.query_within(sql, parameters, seconds=seconds), self._own_columns)

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
        since, until = proof.ends(month)
        if self._client.query(proof.OF_NO_WINDOW, since=since, until=until):
            yield NO_WINDOW
        after = str(NO_WINDOW)
        while True:
            page = self._client.query(proof.windows_of(), since=since, until=until, after=after)
            yield from (UUID(window_id) for (window_id,) in page)
            if len(page) < proof.PAGE_WINDOWS:
                return
            after = page[-1][0]

    def keeping_problems(self, change: Change) -> Sequence[str]:
        return surroundings.keeping_problems(self._client, change)

    def drop_month(self, month: date, *, windows: int) -> bool:
        since, until = proof.bounds(month)
        partitions = [name for (name,) in self._client.query(keeping.PARTITIONS, since=since, until=until)]
        with self._changing() as cursor:
            cursor.execute(keeping.keep_writers_out(partitions))
            cursor.execute(proof.COUNT_WINDOWS, {"since": since, "until": until})
            ((stored,),) = cursor.fetchall()
            is_dropped = int(stored) <= windows
            end = keeping.drop_month(partitions) if is_dropped else "ROLLBACK"
            cursor.execute(driver.with_parameters(cursor, end, {"since": since, "until": until}))
        self._writer.forget(month)
        return is_dropped

    def find_windows(self, query: Query, *, month: date) -> Sequence[UUID]:
        since, until = proof.ends(month)
        condition, parameters = where(query, server=self._client.server())
        rows = self._client.query(
            f"SELECT DISTINCT {proof.SAID_WINDOW}::text FROM {TABLE} WHERE {proof.WITHIN} AND {condition}",
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

    def read_rows(self, window_ids: Sequence[UUID], query: Query) -> Sequence[StoredEvent]:
        condition, parameters = where(query, server=self._client.server())
        names = [proof.SAID_TIME if name == "event_date_time" else name for name in streamed_columns(self._own_columns)]
        rows = self._client.query(
            f"SELECT {', '.join(names)} FROM {TABLE} WHERE {proof.OF_WINDOWS} AND {condition}",
            windows=[str(window_id) for window_id in window_ids],
            **parameters,
        )
        return [stored_event(row, self._own_columns) for row in rows]

    def rewrite(self, rows: Sequence[MaskedRow], *, mask: str) -> None:
        for statement, parameters in keeping.updates(rows, mask=mask) if rows else ():
            with self._changing() as cursor:
                cursor.execute(driver.with_parameters(cursor, statement, parameters))

    def now(self) -> datetime:
        moment: datetime = self._client.query("SELECT clock_timestamp()")[0][0]
        return moment.astimezone(UTC)

    def close(self) -> None:
        self._client.close()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Any]:
        """A context with a cursor. Raises StoreUnavailable, which says what the role may not do."""
        try:
            with self._client.cursor() as cursor:
                yield cursor
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
