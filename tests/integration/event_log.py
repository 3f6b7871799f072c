"""The OBT as the tests see it: read with SQL of their own, so that no mistake of the product hides itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.clickhouse import client_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.local.clickhouse import ClickHouse

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of the OBT, its text as the bytes that are stored."""

    outbox: str
    outbox_id: int
    window_id: str
    event_type: str
    event_date_time: datetime
    environment: str
    event_context: bytes
    metadata_version: int


@dataclass(frozen=True, slots=True)
class Who:
    """The columns of a row that are filled from what was bound."""

    actor: str
    request_id: str
    ip: str


class EventLog:
    """Reads and clears the OBT."""

    def __init__(self, server: ClickHouse) -> None:
        self._client = client_of(server)

    def clear(self) -> None:
        self._client.command("TRUNCATE TABLE event_log")

    def count(self) -> int:
        return int(self._one("SELECT count() FROM event_log"))

    def distinct(self) -> int:
        return int(self._one("SELECT uniqExact(outbox, outbox_id) FROM event_log"))

    def identities(self) -> set[tuple[str, int]]:
        return {(outbox, int(id_)) for outbox, id_ in self._rows("SELECT outbox, outbox_id FROM event_log")}

    def window_sizes(self) -> list[int]:
        """Rows of each window, in the order in which they were written."""
        sql = "SELECT count() FROM event_log GROUP BY window_id ORDER BY min(written_at)"
        return [int(count) for (count,) in self._rows(sql)]

    def events(self) -> list[StoredEvent]:
        """All rows, by outbox and id. Text by its hexadecimal digits: no format's escapes are in between."""
        rows = self._rows(
            "SELECT outbox, outbox_id, toString(window_id), event_type, toUnixTimestamp64Micro(event_date_time),"
            " environment, hex(event_context), metadata_version FROM event_log ORDER BY outbox, outbox_id"
        )
        return [
            StoredEvent(
                outbox=outbox,
                outbox_id=int(outbox_id),
                window_id=window_id,
                event_type=event_type,
                event_date_time=_EPOCH + timedelta(microseconds=int(microseconds)),
                environment=environment,
                event_context=bytes.fromhex(context),
                metadata_version=int(version),
            )
            for outbox, outbox_id, window_id, event_type, microseconds, environment, context, version in rows
        ]

    def who(self) -> list[Who]:
        """All rows, in the order of `events()`."""
        rows = self._rows("SELECT actor, request_id, ip FROM event_log ORDER BY outbox, outbox_id")
        return [Who(*row) for row in rows]

    def told(self) -> list[tuple[str, str, str]]:
        """Type, target and outcome of all rows, in the order of `events()`."""
        rows = self._rows("SELECT event_type, target, outcome FROM event_log ORDER BY outbox, outbox_id")
        return [(str(type_), str(target), str(outcome)) for type_, target, outcome in rows]

    def written_at(self) -> datetime:
        """When the last row was written, by the store's clock."""
        microseconds = int(self._one("SELECT toUnixTimestamp64Micro(max(written_at)) FROM event_log"))
        return _EPOCH + timedelta(microseconds=microseconds)

    def delete_where(self, condition: str) -> None:
        """Lose rows; the store's token log stays as it is."""
        self._client.command(f"ALTER TABLE event_log DELETE WHERE {condition} SETTINGS mutations_sync = 1")

    def copy_window(self, window_id: str) -> None:
        """Store a window's rows a second time."""
        self._client.command(f"INSERT INTO event_log SELECT * FROM event_log WHERE window_id = '{window_id}'")

    def create_table(self, name: str, *, like: str) -> None:
        self._client.command(f"CREATE TABLE {name} AS {like}")

    def drop_table(self, name: str) -> None:
        self._client.command(f"DROP TABLE {name}")

    def alter(self, change: str) -> None:
        self._client.command(f"ALTER TABLE event_log {change}")

    def command(self, sql: str) -> None:
        self._client.command(sql)

    def rename_table(self, old: str, new: str) -> None:
        self._client.command(f"RENAME TABLE {old} TO {new}")

    def close(self) -> None:
        self._client.close()

    def _rows(self, sql: str) -> Sequence[Sequence[Any]]:
        return self._client.query(sql).result_rows

    def _one(self, sql: str) -> Any:
        return self._rows(sql)[0][0]
