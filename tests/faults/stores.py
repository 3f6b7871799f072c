"""The event store of the run, past the product's own code: read, damaged and cut with what the tests know of it."""

from __future__ import annotations

import http.client
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import psycopg2

if TYPE_CHECKING:
    from deploy.local.clickhouse import ClickHouse as Server
    from tests.services import Services


class StoreOfRun(Protocol):
    """One kind of event store. `ask` raises OSError or psycopg2.Error."""

    port: int
    #: In the message in which an insert begins, and in the one whose answer tells what became of it; in no other.
    insert_begins: bytes
    insert: bytes
    #: SQL for the key that the writers put first into every context, for the context's md5, for a type of numbers.
    key: str
    md5: str
    whole_number: str

    def ask(self, sql: str) -> list[list[str]]:
        """The rows, their values as text."""

    def delete(self, condition: str) -> None:
        """Lose rows; what the store remembers of tokens stays."""

    def forget_tokens(self) -> None:
        """As after a long time."""

    def clear(self) -> None:
        """Lose every row."""


def store_of(services: Services) -> StoreOfRun:
    """The one that EVENT_STORE_URL asked the run for."""
    if services.is_store_postgresql:
        return PostgreSQL(services.event_store_url, services.postgres.port)
    return ClickHouse(services.clickhouse)


class ClickHouse:
    """Over HTTP."""

    insert_begins = insert = b"insert_deduplication_token"
    key = """extract(substring(event_context, 1, 200), '^."(?:key|email)":"([^"]*)')"""
    md5 = "lower(hex(MD5(event_context)))"
    whole_number = "UInt64"

    def __init__(self, server: Server) -> None:
        self.port = server.port
        self._headers = {"X-ClickHouse-User": server.user or "default", "X-ClickHouse-Key": server.password}

    def ask(self, sql: str) -> list[list[str]]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request("POST", "/?default_format=TabSeparated", sql.encode(), self._headers)
            response = connection.getresponse()
            body = response.read().decode()
        if response.status != http.client.OK:
            raise OSError(body[:500])
        return [line.split("\t") for line in body.splitlines()]

    def delete(self, condition: str) -> None:
        self.ask(f"ALTER TABLE event_log DELETE WHERE {condition} SETTINGS mutations_sync = 2")

    def forget_tokens(self) -> None:
        """The token log holds two entries for a while, and somebody else's inserts push the others out."""
        self._remember(2)
        for number in range(3):
            for month in ("01", "02"):
                self.ask(
                    "INSERT INTO event_log (event_type, event_date_time, outbox, outbox_id)"
                    f" SETTINGS insert_deduplication_token = 'foreign {number} {month}'"
                    f" SELECT 'foreign', toDateTime64('2020-{month}-15 00:00:00', 6, 'UTC'), 'foreign', {number}"
                )
        self._remember(10_000)

    def clear(self) -> None:
        self.ask("TRUNCATE TABLE event_log")

    def _remember(self, tokens: int) -> None:
        self.ask(f"ALTER TABLE event_log MODIFY SETTING non_replicated_deduplication_window = {tokens}")


class PostgreSQL:
    """A database beside the application's."""

    insert_begins = b"COPY event_log_window"
    insert = b"event_log_token"
    key = """substring(event_context from '^."(?:key|email)":"([^"]*)')"""
    md5 = "md5(event_context)"
    whole_number = "bigint NOT NULL DEFAULT 0"

    def __init__(self, url: str, port: int) -> None:
        self.port = port
        self._url = url

    def ask(self, sql: str) -> list[list[str]]:
        with closing(psycopg2.connect(self._url, connect_timeout=5)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return [[str(value) for value in row] for row in cursor.fetchall()] if cursor.description else []

    def delete(self, condition: str) -> None:
        self.ask(f"DELETE FROM event_log WHERE {condition}")

    def forget_tokens(self) -> None:
        self.ask("DELETE FROM event_log_token")

    def clear(self) -> None:
        self.ask("TRUNCATE TABLE event_log")
