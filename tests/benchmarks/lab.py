"""The machine the figures are taken on: a stack of its own, databases that are empty when asked for, and the sizes.

Invariant: a benchmark shares no service with another stack, and no knob of the shell that starts it reaches the
product's processes.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import psycopg2

from tests.administering import let_role_administer, on_database
from tests.variables import every_variable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from deploy.local.stack import Stack
    from towpath.eventlog.store import EventStore

#: Made once and copied for each database a figure asks for: a migration takes seconds, a copy a tenth of one.
_TEMPLATE = "bench_template"
#: The database that the product's processes and most figures work in.
MAIN_DATABASE = "bench"

#: A dispatcher that runs makes its cursors once, and holds its shifts.
_KEPT = ("pipeline_cursor", "pipeline_shift")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured. The quick ones only show that the method works."""

    is_quick: bool
    repeats: int
    backlog_events: int
    orm_events: int
    rate_seconds: float
    latency_seconds: float
    publish_calls: int
    publish_many_events: int
    payload_total_bytes: int
    dispatch_ids: int
    flat_small: int
    flat_large: int
    flat_windows: int
    delivered_rows: int
    held_windows: int
    receipts: int
    explored_events: int
    idle_seconds: float

    def with_repeats(self, repeats: int) -> Sizes:
        return replace(self, repeats=repeats)


FULL = Sizes(
    is_quick=False,
    repeats=5,
    backlog_events=500_000,
    orm_events=20_000,
    rate_seconds=10,
    latency_seconds=30,
    publish_calls=300,
    publish_many_events=10_000,
    payload_total_bytes=256 << 20,
    dispatch_ids=1_000_000,
    flat_small=10_000,
    flat_large=2_000_000,
    flat_windows=10,
    delivered_rows=500_000,
    held_windows=100_000,
    receipts=5_000_000,
    explored_events=10_000_000,
    idle_seconds=30,
)
QUICK = Sizes(
    is_quick=True,
    repeats=1,
    backlog_events=50_000,
    orm_events=2_000,
    rate_seconds=4,
    latency_seconds=4,
    publish_calls=50,
    publish_many_events=2_000,
    payload_total_bytes=48 << 20,
    dispatch_ids=100_000,
    flat_small=5_000,
    flat_large=50_000,
    flat_windows=5,
    delivered_rows=20_000,
    held_windows=2_000,
    receipts=100_000,
    explored_events=300_000,
    idle_seconds=5,
)


def forget_knobs_of_the_shell() -> None:
    """Before anything reads the environment."""
    for name in every_variable():
        os.environ.pop(name, None)


class Lab:
    """A running stack without the application, Django set up on it, and clients of the benchmark's own."""

    def __init__(self, stack: Stack, *, sizes: Sizes) -> None:
        self.stack = stack
        self.sizes = sizes
        self._server_url = stack.environment["DATABASE_URL"]
        #: For the product's processes; this process logs warnings only.
        self.environment: Mapping[str, str] = {
            **stack.environment,
            "DATABASE_URL": self.database_url(MAIN_DATABASE),
            "ENVIRONMENT": "bench",
            "LOG_LEVEL": "INFO",
        }
        if stack.postgres is not None:
            # Rights to functions belong to a database, and a new one has those of its template.
            let_role_administer(on_database(stack.postgres.superuser_url, "template1"))
            self.superuser_url = stack.postgres.superuser_url
        self._make_database(_TEMPLATE)
        self._make_database(MAIN_DATABASE)
        os.environ.update(self.environment | {"LOG_LEVEL": "WARNING"})
        import django

        django.setup()
        self._migrate()
        self.clickhouse = self.new_clickhouse_client()
        self.store = self._new_store()

    @property
    def postgres_log(self) -> Path:
        return self.stack.log_folder / "postgres.log"

    def say(self, text: str) -> None:
        self.stack.progress.say(text)

    def close(self) -> None:
        from django.db import connections

        connections.close_all()
        self.store.close()
        self.clickhouse.close()

    def new_clickhouse_client(self) -> Client:
        """A client that is not the product's."""
        import clickhouse_connect

        url = urlsplit(self.environment["EVENT_STORE_URL"])
        return clickhouse_connect.get_client(
            host=url.hostname,
            port=url.port,
            username=url.username,
            password=url.password or "",
            autogenerate_session_id=False,
        )

    def clear(self) -> None:
        """Every table and queue empty, and nothing of the last run left for a checkpoint or a merge to do."""
        from django.db import connection

        from tests.tables import empty_tables

        empty_tables(keep=_KEPT)
        with connection.cursor() as cursor:
            cursor.execute("CHECKPOINT")
        self.clickhouse.command("TRUNCATE TABLE event_log")
        self.purge_queues()

    def purge_queues(self) -> None:
        """Empty every queue of the pipeline that exists."""
        import dramatiq
        import pika

        from towpath.conf.current import config

        parameters = dramatiq.get_broker().parameters  # type: ignore[attr-defined]
        with contextlib.closing(pika.BlockingConnection(parameters=parameters)) as rabbitmq:
            for queue in (name + suffix for name in config().queues for suffix in ("", ".DQ", ".XQ")):
                with contextlib.suppress(pika.exceptions.ChannelClosedByBroker):  # nobody has used it yet
                    rabbitmq.channel().queue_purge(queue)

    @contextlib.contextmanager
    def databases(self, *names: str) -> Iterator[None]:
        """Fresh databases for `use_database`, gone afterwards."""
        for name in names:
            self._make_database(name, template=_TEMPLATE)
        try:
            yield
        finally:
            self.use_database(MAIN_DATABASE)
            for name in names:
                self._on_server(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def use_database(self, name: str) -> None:
        """Where this process's connections go from now on."""
        from django.db import connections

        connections["default"].close()
        # All threads' connections are made from this one dictionary.
        connections["default"].settings_dict["NAME"] = name

    def _migrate(self) -> None:
        from django.core.management import call_command

        for name in (_TEMPLATE, MAIN_DATABASE):
            self.use_database(name)
            call_command("migrate", verbosity=0)
        client = self.new_clickhouse_client()
        # The record of migrations with the table, or the next run would take the table for there.
        for table in ("event_log", "event_log_migration"):
            client.command(f"DROP TABLE IF EXISTS {table}")
        client.close()
        call_command("eventlog", "migrate")

    def _new_store(self) -> EventStore:
        from towpath.eventlog.connect import connect

        return connect(self.environment["EVENT_STORE_URL"], timeout_seconds=120)

    def _make_database(self, name: str, *, template: str = "template1") -> None:
        self._on_server(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self._on_server(f"CREATE DATABASE {name} TEMPLATE {template}")

    def _on_server(self, sql: str) -> None:
        connection = psycopg2.connect(self._server_url)
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
        finally:
            connection.close()

    def database_url(self, database: str) -> str:
        return urlunsplit(urlsplit(self._server_url)._replace(path=f"/{database}"))
