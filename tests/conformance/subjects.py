"""What the suite needs of a store beside the interface: a fresh one, and its rows read past the product's own code."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import clickhouse_connect

from backend.eventlog.store import EventStore, connect
from tests.model.memory_store import MemoryStore, StoredRow

if TYPE_CHECKING:
    from tests.services import Services

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMEOUT_SECONDS = 20


class Subject(Protocol):
    """One kind of store. A second real one is one more class here, and one more line in conftest.SUBJECTS."""

    store: EventStore

    def rows(self) -> list[StoredRow]:
        """Every stored row, by outbox and id."""

    def close(self) -> None:
        """Leave nothing behind."""


class RemoteSubject(Subject, Protocol):
    """A store with a schema, behind an address."""

    port: int

    def connect(self, port: int, *, timeout_seconds: float = _TIMEOUT_SECONDS) -> EventStore:
        """The same store through another port of this machine."""

    def create_without_column(self, column: str) -> None:
        """The table as it would be had somebody dropped a column."""

    def create_without_setting(self, setting: str) -> None:
        """The table as it would be had somebody reset a setting."""


class MemorySubject:
    """The fake that the model of the pipeline runs on."""

    def __init__(self, services: Services) -> None:  # noqa: ARG002 - as the others
        self.memory = MemoryStore()
        self.store: EventStore = self.memory

    def rows(self) -> list[StoredRow]:
        return sorted(self.memory.rows, key=lambda row: row.identity)

    def close(self) -> None:
        """Nothing is left."""


class ClickHouseSubject:
    """ClickHouse over HTTP, in a database of the test's own."""

    def __init__(self, services: Services) -> None:
        self.port = services.clickhouse.port
        self._admin = clickhouse_connect.get_client(host="127.0.0.1", port=self.port, autogenerate_session_id=False)
        self._admin.command("DROP DATABASE IF EXISTS conformance")
        self._admin.command("CREATE DATABASE conformance")
        self.store = self.connect(self.port)

    def connect(self, port: int, *, timeout_seconds: float = _TIMEOUT_SECONDS) -> EventStore:
        return connect(f"clickhouse://127.0.0.1:{port}/conformance", timeout_seconds=timeout_seconds)

    def rows(self) -> list[StoredRow]:
        """Text by its hexadecimal digits: no format's escapes are in between."""
        found = self._admin.query(
            "SELECT outbox, outbox_id, toString(window_id), event_type, toUnixTimestamp64Micro(event_date_time),"
            " environment, metadata_version, hex(event_context) FROM conformance.event_log ORDER BY outbox, outbox_id"
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
            )
            for outbox, outbox_id, window_id, event_type, microseconds, environment, version, context in found
        ]

    def create_without_column(self, column: str) -> None:
        self._admin.command(f"ALTER TABLE conformance.event_log DROP COLUMN {column}")

    def create_without_setting(self, setting: str) -> None:
        self._admin.command(f"ALTER TABLE conformance.event_log RESET SETTING {setting}")

    def close(self) -> None:
        self.store.close()
        self._admin.command("DROP DATABASE conformance")
        self._admin.close()
