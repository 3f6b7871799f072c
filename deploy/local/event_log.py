"""The event store, read with plain SQL past the product's own code; whichever it is."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

import clickhouse_connect
import psycopg2

if TYPE_CHECKING:
    from collections.abc import Sequence


class EventLog(Protocol):
    """Answers SQL that every store understands."""

    def query(self, sql: str) -> Sequence[Sequence[Any]]:
        """The rows."""


def open_event_log(url: str) -> EventLog:
    """The event store of a URL; connects immediately or with each query."""
    return _PostgreSQL(url) if url.startswith("postgres") else _ClickHouse(url)


class _ClickHouse:
    def __init__(self, url: str) -> None:
        self._client = clickhouse_connect.get_client(
            dsn=url.replace("clickhouse://", "http://"), autogenerate_session_id=False
        )

    def query(self, sql: str) -> Sequence[Sequence[Any]]:
        return self._client.query(sql).result_rows


class _PostgreSQL:
    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, sql: str) -> Sequence[Sequence[Any]]:
        with closing(psycopg2.connect(self._url)) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()
