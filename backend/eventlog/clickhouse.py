"""The event store on ClickHouse, and the only module that speaks to its driver. The table is in clickhouse_schema, what
the server's errors mean in clickhouse_errors.

A server over HTTP, or `chdb:///folder`: the same engine inside this process, for one process at a time.

A window is one INSERT with the window's token. What makes that idempotent, and durable when it returns, is pinned
here: on the table (token log, fsync) and on every insert (one block per month, no asynchronous inserts).
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError

from backend.eventlog.clickhouse_errors import brief, translated, who_may
from backend.eventlog.clickhouse_schema import COLUMN_TYPES, CREATE_MIGRATIONS, TABLE, TABLE_SETTINGS, migrations
from backend.eventlog.columns import ROW_COLUMNS
from backend.eventlog.errors import OutcomeUnknown, StoreUnavailable
from backend.eventlog.store import STREAMED_COLUMNS, Digest, StoredEvent, stored_event

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from uuid import UUID

    from clickhouse_connect.driver.client import Client

    from backend.eventlog.schema import Migration

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Rows that `stream` asks for at a time.
_PAGE_ROWS = 1000

_INSERT_SETTINGS = {
    # On by default since 26.2. It answers before the rows are stored, or batches them out of our tokens' reach.
    "async_insert": 0,
    "insert_deduplicate": 1,
    # Both split an insert into several blocks, and a token stands for one block per partition.
    "max_insert_threads": 1,
    "input_format_parallel_parsing": 0,
    "date_time_input_format": "best_effort",
    "input_format_null_as_default": 0,
    # A window may reach back over years (a bulk import); the default refuses more than 100 months.
    "max_partitions_per_insert_block": 0,
    # The whole answer at once: no status line before the insert's outcome is known.
    "wait_end_of_query": 1,
}


class ClickHouseStore:
    """An `EventStore` on a ClickHouse engine. Safe to share between threads; connects at first use."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._client: Client | None = None
        self._connecting = threading.Lock()

    def migrations(self) -> Sequence[Migration]:
        return migrations()

    def applied_migrations(self) -> Mapping[int, tuple[str, str]]:
        if not self._query(f"EXISTS TABLE {TABLE}_migration")[0][0]:
            return {}
        rows = self._query(f"SELECT number, name, checksum FROM {TABLE}_migration")
        return {int(number): (str(name), str(checksum)) for number, name, checksum in rows}

    def apply_migration(self, migration: Migration) -> None:
        for statement in (CREATE_MIGRATIONS, *migration.statements):
            self._command(statement)
        # As one of the statements would be after a crash, this is repeatable: the newest record of a number counts.
        self._command(
            f"INSERT INTO {TABLE}_migration (number, name, checksum) SELECT %s, %s, %s",
            migration.number,
            migration.name,
            migration.checksum,
        )

    def problems(self) -> Sequence[str]:
        columns = self._columns()
        if not columns:
            return [f"table {TABLE} does not exist: run `python manage.py eventlog migrate`"]
        found = [
            f"column {name} is {columns.get(name, 'missing')}, not {wanted}: run `python manage.py eventlog migrate`"
            for name, wanted in COLUMN_TYPES.items()
            if columns.get(name) != wanted
        ]
        engine, ddl = self._query(
            "SELECT engine, create_table_query FROM system.tables WHERE database = currentDatabase() AND name = %s",
            TABLE,
        )[0]
        if not engine.startswith("Replicated"):
            found += [
                f"table setting {name} is not {value}: run ALTER TABLE {TABLE} MODIFY SETTING {name} = {value}"
                for name, value in TABLE_SETTINGS.items()
                if f"{name} = {value}" not in ddl
            ]
        return found

    def _columns(self) -> dict[str, str]:
        rows = self._query(
            "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = %s", TABLE
        )
        return {str(name): str(kind) for name, kind in rows}

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:
        settings = {
            **_INSERT_SETTINGS,
            "insert_deduplication_token": token,
            # The server gives up before we do: an insert must not go on when nobody waits for it any more.
            "max_execution_time": max(1, int(self._timeout_seconds * 0.8)),
        }
        try:
            summary = self._connected().raw_insert(
                TABLE,
                column_names=[column.name for column in ROW_COLUMNS],
                insert_block=rows,
                settings=settings,
                fmt="TabSeparated",
            )
        except ClickHouseError as error:
            raise translated(error) from error
        # Also a write dropped by its token counts its rows; fewer than sent means that some were not even parsed. An
        # answer without the count is not the server's: a proxy's page, or something else on its port.
        written = int(summary.summary.get("written_rows", 0))
        if written < row_count:
            raise OutcomeUnknown(f"the event store says that it took {written} of {row_count} rows")

    def read_back(self, window_id: UUID) -> set[tuple[str, int]]:
        stored = self._array(
            f"SELECT groupArray((outbox, outbox_id)) FROM {TABLE} WHERE window_id = %s", str(window_id)
        )
        return {(str(outbox), int(outbox_id)) for outbox, outbox_id in stored}

    def counts(self, window_ids: Sequence[UUID]) -> Mapping[UUID, Mapping[str, int]]:
        counts: dict[UUID, dict[str, int]] = {}
        if window_ids:
            found = self._array(
                "SELECT groupArray((window_id, outbox, stored)) FROM (SELECT window_id, outbox, count() AS stored"
                f" FROM {TABLE} WHERE window_id IN %s GROUP BY window_id, outbox)",
                tuple(str(window_id) for window_id in window_ids),
            )
            for window_id, outbox, stored in found:
                counts.setdefault(window_id, {})[str(outbox)] = int(stored)
        return counts

    def stream(
        self, event_type: str, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[StoredEvent]:
        conditions = ["event_type = %s"]
        parameters: list[object] = [event_type]
        for moment, comparison in ((since, ">="), (until, "<")):
            if moment is not None:
                conditions.append(f"event_date_time {comparison} {_MOMENT}")
                parameters.append(_microseconds(moment))
        after = ""
        position: list[object] = []
        while True:
            # The ties come with it, so that a row that is stored twice is streamed twice also at the end of a page.
            rows = self._query(
                f"SELECT {', '.join(STREAMED_COLUMNS)} FROM {TABLE} WHERE {' AND '.join(conditions)} {after}"
                f" ORDER BY event_date_time, outbox, outbox_id LIMIT {_PAGE_ROWS} WITH TIES",
                *parameters,
                *position,
            )
            for row in rows:
                event = stored_event(row)
                yield event
            if len(rows) < _PAGE_ROWS:
                return
            # The first condition is for the sorting key, which the second does not use.
            after = f"AND event_date_time >= {_MOMENT} AND (event_date_time, outbox, outbox_id) > ({_MOMENT}, %s, %s)"
            microseconds = _microseconds(event.event_date_time)
            position = [microseconds, microseconds, event.outbox, event.outbox_id]

    def digests(self, table: str | None, *, since: datetime, until: datetime, slack: timedelta) -> Iterator[Digest]:
        inside = f"event_date_time >= {_MOMENT} AND event_date_time < {_MOMENT}"
        sql = (
            "SELECT toString(event_type) AS type, lower(hex(MD5(event_context))) AS digest,"
            f" toUnixTimestamp64Micro(toDateTime64(min(event_date_time), 6, 'UTC')), countIf({inside}), count()"
            f" FROM {_quoted(table or TABLE)} WHERE {inside} GROUP BY type, digest ORDER BY type, digest"
        )
        parameters = [_microseconds(moment) for moment in (since, until, since - slack, until + slack)]
        try:
            with self._connected().query_rows_stream(sql, parameters=parameters) as rows:
                for event_type, digest, microseconds, count, around in rows:
                    at = _EPOCH + timedelta(microseconds=int(microseconds))
                    yield Digest(str(event_type), str(digest), at, int(count), int(around))
        except ClickHouseError as error:
            raise StoreUnavailable(brief(error)) from error

    def now(self) -> datetime:
        moment: datetime = self._query("SELECT now64(6, 'UTC')")[0][0]
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _array(self, sql: str, *parameters: object) -> Sequence[Any]:
        """What is stored, asked for as one array, because that is always one row: an empty answer is not the server's,
        and must not be taken for "nothing is stored".
        """
        # A replica that lags behind would report rows missing that are stored.
        rows = self._query(f"{sql} SETTINGS select_sequential_consistency = 1", *parameters)
        if len(rows) != 1:
            raise StoreUnavailable("the answer to the read-back is not the event store's: is EVENT_STORE_URL right?")
        found: Sequence[Any] = rows[0][0]
        return found

    def _query(self, sql: str, *parameters: object) -> Sequence[Sequence[Any]]:
        try:
            return self._connected().query(sql, parameters=list(parameters)).result_rows
        except ClickHouseError as error:
            raise StoreUnavailable(brief(error) + who_may(error)) from error

    def _command(self, sql: str, *parameters: object) -> None:
        try:
            self._connected().command(sql, parameters=list(parameters) or None)
        except ClickHouseError as error:
            raise StoreUnavailable(brief(error) + who_may(error)) from error

    def _connected(self) -> Client:
        with self._connecting:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> Client:
        parts = urlsplit(self._url)
        if parts.scheme == "chdb":
            return _embedded(parts.netloc + unquote(parts.path))
        secure = parts.scheme in {"clickhouses", "https"}
        options: dict[str, Any] = dict(parse_qsl(parts.query))
        try:
            return clickhouse_connect.get_client(
                host=parts.hostname or "127.0.0.1",
                port=parts.port or (8443 if secure else 8123),
                username=unquote(parts.username or "default"),
                password=unquote(parts.password or ""),
                database=parts.path.lstrip("/") or "default",
                secure=secure,
                connect_timeout=5,
                send_receive_timeout=self._timeout_seconds,
                # With a session, two threads could not use one client, and a lost answer would leave it locked.
                autogenerate_session_id=False,
                **options,
            )
        except ClickHouseError as error:
            raise StoreUnavailable(brief(error)) from error


def _embedded(folder: str) -> Client:
    """The engine in this process. Its data is in the folder, which no other process may have open."""
    try:
        return clickhouse_connect.get_client(interface="chdb", path=folder)
    except ImportError as error:
        raise StoreUnavailable("chdb:// needs the package chdb: type pip install chdb") from error
    except ClickHouseError as error:
        raise StoreUnavailable(f"{brief(error)}: chdb:// is for one process, is it open in another?") from error


_MOMENT = "fromUnixTimestamp64Micro(toInt64(%s), 'UTC')"


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _quoted(table: str) -> str:
    return ".".join("`" + part.replace("\\", "\\\\").replace("`", "\\`") + "`" for part in table.split("."))
