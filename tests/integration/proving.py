"""Event stores whose rows somebody changes by hand, and what an audit says of it."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest

from tests.clickhouse import client_of
from tests.integration.manage import here
from towpath.conf.current import config
from towpath.eventlog import schema
from towpath.eventlog.columns import row_columns
from towpath.eventlog.connect import connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.services import Services
    from towpath.eventlog.store import Store


class Tampered(Protocol):
    """An event store, and the hands of somebody who may do anything to it."""

    store: Store
    #: For EVENT_STORE_URL.
    url: str

    def execute(self, sql: str) -> None:
        """SQL of this store."""

    def update(self, assignment: str, *, where: str) -> None:
        """Change rows, and return when that is done."""

    def delete(self, *, where: str) -> None:
        """Remove rows, and return when that is done."""

    def drop_month(self, month: str) -> None:
        """Remove a month, such as 2026_03, whole."""

    def close(self) -> None:
        """Give connections back."""


class OnClickHouse:
    """The run's own store."""

    def __init__(self, services: Services) -> None:
        self._client = client_of(services.clickhouse)
        self._client.command("TRUNCATE TABLE event_log")
        self.url = services.event_store_url
        self.store = connect(self.url, timeout_seconds=30)

    def execute(self, sql: str) -> None:
        self._client.command(sql)

    def update(self, assignment: str, *, where: str) -> None:
        self.execute(f"ALTER TABLE event_log UPDATE {assignment} WHERE {where} SETTINGS mutations_sync = 2")

    def delete(self, *, where: str) -> None:
        self.execute(f"ALTER TABLE event_log DELETE WHERE {where} SETTINGS mutations_sync = 2")

    def drop_month(self, month: str) -> None:
        self.execute(f"ALTER TABLE event_log DROP PARTITION {month.replace('_', '')}")

    def close(self) -> None:
        self.store.close()
        self._client.command("TRUNCATE TABLE event_log")
        self._client.close()


class OnPostgreSQL:
    """A database of the test's own, beside the application's."""

    def __init__(self, services: Services) -> None:
        self.url = urlunsplit(urlsplit(services.postgres.url)._replace(path="proven"))
        self.store = connect(self.url, timeout_seconds=30)
        schema.migrate(self.store)
        self.execute("TRUNCATE event_log, event_log_token")

    def execute(self, sql: str) -> None:
        with closing(psycopg2.connect(self.url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql)

    def update(self, assignment: str, *, where: str) -> None:
        self.execute(f"UPDATE event_log SET {assignment} WHERE {where}")

    def delete(self, *, where: str) -> None:
        self.execute(f"DELETE FROM event_log WHERE {where}")

    def drop_month(self, month: str) -> None:
        self.execute(f"DROP TABLE event_log_{month}")

    def close(self) -> None:
        self.store.close()


STORES: dict[str, Callable[[Services], Tampered]] = {"clickhouse": OnClickHouse, "postgresql": OnPostgreSQL}
#: For a fixture. What differs by store is in tests/conformance; an audit on ClickHouse takes long.
EACH_STORE = (pytest.param("clickhouse", marks=pytest.mark.slow), "postgresql")


def audited(*arguments: str) -> dict[str, Any]:
    """What `pipeline verify --deep --json` answers, and its exit code as `exit`."""
    done = here("pipeline", "verify", "--deep", "--json", *arguments)
    assert done.stdout, done.stderr
    return {**json.loads(done.stdout), "exit": done.returncode}


def kinds(audit: dict[str, Any]) -> list[str]:
    """The kinds of differences, sorted, each once."""
    return sorted({difference["kind"] for difference in audit["differences"]})


def columns() -> str:
    """Every column that comes with a row, for a copy of rows in SQL."""
    return ", ".join(column.name for column in row_columns(config().columns))


def copy_of(tampered: Tampered, row_id: int, **changed: str) -> None:
    """Store the row once more, with other values in some columns."""
    values = ", ".join(changed.get(name, name) for name in columns().split(", "))
    where = f"outbox = 'outbox_event' AND outbox_id = {row_id}"
    tampered.execute(
        f"INSERT INTO event_log ({columns()}, written_at) SELECT {values}, written_at FROM event_log WHERE {where}"
    )
