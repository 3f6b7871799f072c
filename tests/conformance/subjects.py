"""What the suite needs of a store beside the interface: a fresh one, and its rows read past the product's own code."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import clickhouse_connect
import psycopg2
import pytest

from tests.clickhouse import client_of, url_of
from tests.conformance.rows import OWN_COLUMNS
from towpath.eventlog import schema
from towpath.eventlog.columns import Kind, added_columns
from towpath.eventlog.connect import connect
from towpath.eventlog.search import SearchableStore
from towpath.eventlog.store import KeepableStore, ReadableStore, Store
from towpath.eventlog.stores.memory import MemoryStore, StoredRow

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client
    from psycopg2.extensions import connection

    from tests.services import Services
    from towpath.eventlog.columns import Column

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMEOUT_SECONDS = 20


_ADDED = added_columns(OWN_COLUMNS)

can_be_edited = pytest.mark.only("clickhouse", "chdb", "postgresql", reason="nobody edits a store in memory by hand")


def _plain(column: Column, value: Any) -> object:
    """The value as it is, whatever a driver makes of its type."""
    if column.kind is Kind.TIME:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return UUID(str(value)) if column.kind is Kind.UUID else value


class AnyStore(ReadableStore, SearchableStore, KeepableStore, Protocol):
    """What each of the stores is."""


class Subject(Protocol):
    """One kind of store. A second real one is one more class here, and one more line in conftest.SUBJECTS."""

    @property
    def store(self) -> AnyStore:
        """Fresh, and connected to its service."""

    def with_columns(self, own_columns: tuple[Column, ...]) -> AnyStore:
        """The same store for a project that has declared these columns, of those of the suite."""

    def clear(self) -> None:
        """Have no table of our names."""

    def migrate(self) -> None:
        """Have the tables as they are migrated, if there are any, without a row."""

    def rows(self) -> list[StoredRow]:
        """Every stored row, by outbox and id."""

    def close(self) -> None:
        """Give connections back."""


class SchemaSubject(Subject, Protocol):
    """A store with a schema."""

    @property
    def store(self) -> Store:
        """As above, with a table to migrate."""

    def execute(self, sql: str) -> None:
        """What somebody does to the store's database by hand."""

    def edit(self, change: str, *, where: str) -> None:
        """Change stored rows of the OBT by hand: `column = value`."""

    def tables(self) -> dict[str, str]:
        """Every table of our names, and how it is defined."""

    def sum(self, table: str, column: str) -> int:
        """Of another table."""


class MutableSubject(SchemaSubject, Protocol):
    """A store that changes rows in the background."""

    def mutations(self) -> list[str]:
        """What the engine keeps of the statements that have changed rows."""


class RemoteSubject(SchemaSubject, Protocol):
    """A store with a schema, behind an address."""

    port: int

    def connect(
        self, port: int, *, timeout_seconds: float = _TIMEOUT_SECONDS, own_columns: tuple[Column, ...] = OWN_COLUMNS
    ) -> Store:
        """The same store through another port of this machine."""


class MemorySubject:
    """The fake that the model of the pipeline runs on."""

    def __init__(self, services: Services) -> None:  # noqa: ARG002 - as the others
        self.memory = MemoryStore(own_columns=OWN_COLUMNS)
        self.store: AnyStore = self.memory

    def with_columns(self, own_columns: tuple[Column, ...]) -> AnyStore:
        return MemoryStore(own_columns=own_columns)

    def clear(self) -> None:
        """There is none."""

    def migrate(self) -> None:
        """There is nothing to migrate, and no row yet."""

    def rows(self) -> list[StoredRow]:
        return sorted(self.memory.rows, key=lambda row: row.identity)

    def close(self) -> None:
        """Nothing is left."""


class _Engine:
    """What the two ways of reaching ClickHouse have in common. Text is read by its hexadecimal digits: no format's
    escapes are in between.
    """

    store: Store
    _admin: Client
    #: All tables as the first migration has made them, and what was recorded of it. Migrating takes longer than most
    #: tests: tables that a test has left exactly so, but for their rows, serve the next one, and others are made again.
    _as_migrated: ClassVar[dict[str, str]] = {}
    _recorded: ClassVar[list[Any]] = []
    #: One for all tests: to make one takes longer than most of them.
    _kept_admin: ClassVar[Client | None] = None

    def clear(self) -> None:
        for name in self.tables(like="%"):
            self._admin.command(f"DROP TABLE IF EXISTS `{name}` SYNC")

    def migrate(self) -> None:
        kept = type(self)
        tables = self.tables(like="%")
        if kept._as_migrated and tables == kept._as_migrated and self._record() == kept._recorded:
            self._admin.command("TRUNCATE TABLE event_log")
            return
        self.clear()
        if kept._as_migrated:
            self._make_as_migrated()
        else:
            schema.migrate(self.store)
            kept._as_migrated = self.tables(like="%")
        kept._recorded = self._record()

    def _make_as_migrated(self) -> None:
        for definition in self._as_migrated.values():
            self._admin.command(definition)
        _, *migrations = self._recorded
        self._admin.insert("event_log_migration", migrations, column_names=["number", "name", "checksum"])
        assert self.tables(like="%") == self._as_migrated
        assert list(self.store.problems()) == []

    def _record(self) -> list[Any]:
        """What is recorded of the migrations, and how often rows were changed past any insert."""
        mutations = self._admin.query("SELECT count() FROM system.mutations WHERE database = currentDatabase()")
        migrations = self._admin.query("SELECT number, name, checksum FROM event_log_migration ORDER BY number")
        return [*mutations.result_rows, *migrations.result_rows]

    def rows(self) -> list[StoredRow]:
        added = ", ".join(column.name for column in _ADDED)
        found = self._admin.query(
            "SELECT outbox, outbox_id, toString(window_id), event_type, toUnixTimestamp64Micro(event_date_time),"
            f" environment, metadata_version, hex(event_context), {added} FROM event_log ORDER BY outbox, outbox_id"
        ).result_rows
        return [
            StoredRow(
                outbox=outbox,
                outbox_id=int(outbox_id),
                window_id=UUID(window_id),
                event_type=event_type,
                event_date_time=_EPOCH + timedelta(microseconds=int(microseconds)),
                environment=environment,
                metadata_version=int(version),
                event_context=bytes.fromhex(context),
                added=tuple(map(_plain, _ADDED, added)),
            )
            for outbox, outbox_id, window_id, event_type, microseconds, environment, version, context, *added in found
        ]

    def execute(self, sql: str) -> None:
        self._admin.command(sql)

    def edit(self, change: str, *, where: str) -> None:
        self.execute(f"ALTER TABLE event_log UPDATE {change} WHERE {where} SETTINGS mutations_sync = 1")

    def tables(self, *, like: str = "event\\_log%") -> dict[str, str]:
        rows = self._admin.query(
            "SELECT name, create_table_query FROM system.tables"
            f" WHERE database = currentDatabase() AND name LIKE '{like}'"
        ).result_rows
        return {str(name): str(definition) for name, definition in rows}

    def mutations(self) -> list[str]:
        """What the engine keeps of the statements that have changed rows."""
        found = self._admin.query("SELECT command FROM system.mutations WHERE database = currentDatabase()")
        return [str(command) for (command,) in found.result_rows]

    def sum(self, table: str, column: str) -> int:
        return int(self._admin.query(f"SELECT sum({column}) FROM {table}").result_rows[0][0])


class ClickHouseSubject(_Engine):
    """ClickHouse over HTTP, in a database of the suite's own."""

    def __init__(self, services: Services) -> None:
        self.port = services.clickhouse.port
        self._server = services.clickhouse
        if not self._as_migrated:
            with closing(client_of(self._server)) as client:
                client.command("CREATE DATABASE IF NOT EXISTS conformance")
        kept = type(self)
        self._admin = kept._kept_admin = kept._kept_admin or client_of(self._server, database="conformance")
        self.store = self.connect(self.port)

    def connect(
        self, port: int, *, timeout_seconds: float = _TIMEOUT_SECONDS, own_columns: tuple[Column, ...] = OWN_COLUMNS
    ) -> Store:
        url = url_of(self._server, database="conformance", port=port)
        return connect(url, timeout_seconds=timeout_seconds, own_columns=own_columns)

    def with_columns(self, own_columns: tuple[Column, ...]) -> Store:
        return self.connect(self.port, own_columns=own_columns)

    def close(self) -> None:
        self.store.close()


class EmbeddedSubject(_Engine):
    """ClickHouse's engine in this process, which can have one folder open only: that of the test run.

    The kept client is never closed: each time chDB's engine starts again, a dozen file descriptors are left behind.
    """

    def __init__(self, services: Services) -> None:
        folder = services.folder / "embedded"
        kept = type(self)
        self._admin = kept._kept_admin = kept._kept_admin or clickhouse_connect.get_client(
            interface="chdb", path=str(folder)
        )
        self._url = f"chdb://{folder}"
        self.store = self.with_columns(OWN_COLUMNS)

    def with_columns(self, own_columns: tuple[Column, ...]) -> Store:
        return connect(self._url, timeout_seconds=_TIMEOUT_SECONDS, own_columns=own_columns)

    def close(self) -> None:
        self.store.close()


class PostgreSQLSubject:
    """A database beside the application's, on the same server."""

    #: One for all tests: to sign in takes longer than what they ask.
    _kept_admin: ClassVar[connection | None] = None

    def __init__(self, services: Services) -> None:
        self.port = services.postgres.port
        self._server = urlsplit(services.postgres.url)
        kept = type(self)
        if kept._kept_admin is None:
            with closing(self._sign_in("postgres")) as admin, admin.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = 'conformance'")
                if not cursor.fetchone():
                    cursor.execute("CREATE DATABASE conformance TEMPLATE template0 ENCODING 'UTF8'")
            kept._kept_admin = self._sign_in("conformance")
        self._admin = kept._kept_admin
        self.store = self.connect(self.port)

    def clear(self) -> None:
        for name, kind in self._ask(
            "SELECT relname, relkind::text FROM pg_class WHERE relname ~ '^event_log(_token|_migration)?$'"
        ):
            self._ask(f"DROP {'VIEW' if kind == 'v' else 'TABLE'} {name}")

    def migrate(self) -> None:
        self.clear()
        schema.migrate(self.store)

    def connect(
        self, port: int, *, timeout_seconds: float = _TIMEOUT_SECONDS, own_columns: tuple[Column, ...] = OWN_COLUMNS
    ) -> Store:
        server = self._server._replace(
            path="conformance", netloc=f"{self._server.username}:{self._server.password}@127.0.0.1:{port}"
        )
        return connect(urlunsplit(server), timeout_seconds=timeout_seconds, own_columns=own_columns)

    def with_columns(self, own_columns: tuple[Column, ...]) -> Store:
        return self.connect(self.port, own_columns=own_columns)

    def rows(self) -> list[StoredRow]:
        added = ", ".join(column.name for column in _ADDED)
        found = self._ask(
            "SELECT outbox, outbox_id, window_id::text, event_type,"
            " (extract(epoch FROM event_date_time) * 1000000)::bigint, environment, metadata_version,"
            f" encode(convert_to(event_context, 'UTF8'), 'hex'), {added} FROM event_log ORDER BY outbox, outbox_id"
        )
        return [
            StoredRow(
                outbox=outbox,
                outbox_id=outbox_id,
                window_id=UUID(window_id),
                event_type=event_type,
                event_date_time=_EPOCH + timedelta(microseconds=microseconds),
                environment=environment,
                metadata_version=version,
                event_context=bytes.fromhex(context),
                added=tuple(map(_plain, _ADDED, added)),
            )
            for outbox, outbox_id, window_id, event_type, microseconds, environment, version, context, *added in found
        ]

    def execute(self, sql: str) -> None:
        self._ask(sql)

    def edit(self, change: str, *, where: str) -> None:
        self._ask(f"UPDATE event_log SET {change} WHERE {where}")

    def tables(self) -> dict[str, str]:
        return dict(
            self._ask(
                "SELECT relname, string_agg(attname || ' ' || atttypid::regtype, ', ' ORDER BY attnum)"
                " FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0"
                " WHERE relname LIKE 'event_log%' AND relnamespace = 'public'::regnamespace GROUP BY 1"
            )
        )

    def sum(self, table: str, column: str) -> int:
        return int(self._ask(f"SELECT sum({column}) FROM {table}")[0][0])

    def close(self) -> None:
        self.store.close()

    def _sign_in(self, database: str) -> connection:
        signed_in = psycopg2.connect(urlunsplit(self._server._replace(path=database)))
        signed_in.autocommit = True
        return signed_in

    def _ask(self, sql: str) -> list[tuple[Any, ...]]:
        with self._admin.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []
