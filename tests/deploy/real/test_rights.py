"""The whole pipeline with a user of its own for each role and service, on servers that check every password."""

from __future__ import annotations

import dataclasses
import uuid
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from tests.deploy.compose import compose
from tests.deploy.conftest import signed_up, stored_emails
from tests.deploy.deployment import Deployment
from tests.deploy.real.asking import doctor
from tests.waiting import eventually
from towpath.eventlog.columns import Kind, row_columns
from towpath.eventlog.connect import connect
from towpath.eventlog.errors import StoreUnavailable
from towpath.eventlog.query import Query
from towpath.eventlog.values import DEFAULTS, EARLIEST, TOO_LATE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from tests.services import Services

pytestmark = [pytest.mark.timing, pytest.mark.timeout(300)]

_WAIT_SECONDS = 90
_NOT_GRANTED = 497
_VALUES = {**DEFAULTS, Kind.TEXT: "a", Kind.WHOLE_NUMBER: "1", Kind.TIME: "2026-03-04 05:06:07.1+00"}


@dataclasses.dataclass
class _OnTrueStore(Deployment):
    """With the ClickHouse user that the compose file gives to each service."""

    stores: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def environment(self, service: str) -> dict[str, str]:
        composed = compose(self.variables)["services"][service]["environment"]
        names = composed.keys() & {"EVENT_STORE_URL", "EVENT_STORE_VERIFIER_URL", "EVENT_STORE_EXPLORER_URL"}
        own = {name: self.stores[str(urlsplit(composed[name]).username)] for name in names}
        return {**super().environment(service), **own}


@pytest.fixture
def own_users(
    services: Services,
    variables: dict[str, str],
    event_stores: Mapping[str, str],
    clickhouse: Client,
    tmp_path: Path,
) -> Iterator[_OnTrueStore]:
    for table in ("event_log", "event_log_migration"):
        clickhouse.command(f"DROP TABLE IF EXISTS towpath.{table} SYNC")
    deployment = _OnTrueStore(
        services, variables, tmp_path, database="own_users", vhost=f"own-users-{uuid.uuid4().hex}", stores=event_stores
    )
    with deployment:
        deployment.create_database()
        deployment.run("migrate")
        yield deployment


def test_every_role_does_its_part_with_its_own_users(own_users: _OnTrueStore, clickhouse: Client) -> None:
    for role in ("dispatcher", "aggregator", "web"):
        own_users.start(role)
    emails = [f"{uuid.uuid4().hex}@example.com" for _ in range(20)]

    for email in emails:
        eventually(lambda: signed_up(own_users, email), seconds=_WAIT_SECONDS, what="the web answers")

    eventually(
        lambda: stored_emails(clickhouse, "towpath") == sorted(emails),
        seconds=_WAIT_SECONDS,
        what="each is stored once",
    )
    assert own_users.refusals() == []
    own_users.manage("dispatcher", "pipeline", "verify")
    findings = doctor(own_users)
    of_the_store = ("event store", "event store table", "event store verifier")
    for name in ("RabbitMQ", "queues", *of_the_store, "PostgreSQL role", "tables"):
        assert findings[name]["is_ok"], findings[name]


def test_each_user_of_the_store_may_do_its_part_and_no_more(
    own_users: _OnTrueStore, event_stores: Mapping[str, str]
) -> None:
    assert own_users.refusals() == []
    window = uuid.uuid4()
    values = {**_VALUES, Kind.UUID: str(window)}
    row = "\t".join(values[column.kind] for column in row_columns()).encode() + b"\n"
    with closing(connect(event_stores["towpath_writer"], timeout_seconds=20)) as store:
        store.write(row, row_count=1, token=str(window))
        store.write(row, row_count=1, token=str(window))
        assert store.read_back(window) == {("a", 1)}
        assert sum(store.counts([window])[window].values()) == 1
        assert store.problems() == []

    for user, statements in {
        "towpath_migrator": ("DROP TABLE event_log", "TRUNCATE TABLE event_log", "CREATE DATABASE other"),
        "towpath_writer": (
            "SELECT event_context FROM event_log",
            "ALTER TABLE event_log DELETE WHERE 1",
            "ALTER TABLE event_log ADD COLUMN x String",
            "DROP TABLE event_log",
        ),
        "towpath_reader": ("INSERT INTO event_log (outbox) SELECT 'forged'", "ALTER TABLE event_log DELETE WHERE 1"),
        "towpath_verifier": (
            "INSERT INTO event_log (outbox) SELECT 'forged'",
            "ALTER TABLE event_log DELETE WHERE 1",
            "ALTER TABLE event_log UPDATE event_context = '' WHERE 1",
            "DROP TABLE event_log",
            "SELECT * FROM event_log_migration",
        ),
        "towpath_explorer": (
            "INSERT INTO event_log (outbox) SELECT 'forged'",
            "ALTER TABLE event_log DELETE WHERE 1",
            "DROP TABLE event_log",
            "SELECT * FROM event_log_migration",
        ),
        "towpath_keeper": (
            "INSERT INTO event_log (outbox) SELECT 'forged'",
            "ALTER TABLE event_log ADD COLUMN x String",
            "TRUNCATE TABLE event_log",
            "DROP TABLE event_log",
        ),
    }.items():
        with closing(_client(event_stores[user])) as client:
            for statement in statements:
                with pytest.raises(DatabaseError, match=r"privileges|readonly"):
                    client.command(statement)
    with closing(_client(event_stores["towpath_reader"])) as client:
        assert client.query("SELECT event_context FROM event_log").result_rows == [("a",)]
    with closing(connect(event_stores["towpath_verifier"], timeout_seconds=20)) as store:
        assert store.reading_problems() == []
        assert [event.event_context for event in store.stream("a")] == ["a"]
        assert store.read_back(window) == {("a", 1)}
    with closing(connect(event_stores["towpath_explorer"], timeout_seconds=20)) as store:
        always: dict[str, Any] = {"since": EARLIEST, "until": TOO_LATE}
        assert store.reading_problems() == []
        (found,) = store.search(Query(), **always, rows=10, seconds=5)
        assert (found.event.event_context, found.event.window_id) == ("a", window)
        assert len(store.histogram(Query(), **always, step=timedelta(hours=1), seconds=60)) == 1
    with closing(_client(event_stores["towpath_keeper"])) as client:
        client.command("ALTER TABLE event_log UPDATE event_context = 'erased' WHERE 1", settings={"mutations_sync": 1})
        assert client.query("SELECT event_context FROM event_log").result_rows == [("erased",)]
        client.command("ALTER TABLE event_log DROP PARTITION '202603'")
        assert client.query("SELECT count() FROM event_log").result_rows == [(0,)]


def test_a_wrong_password_is_an_error_that_is_named(event_stores: Mapping[str, str]) -> None:
    parts = urlsplit(event_stores["towpath_writer"])
    wrong = parts._replace(netloc=f"towpath_writer:wrong@127.0.0.1:{parts.port}").geturl()

    with closing(connect(wrong, timeout_seconds=20)) as store, pytest.raises(StoreUnavailable, match="516"):
        store.now()


def _client(url: str) -> Client:
    parts = urlsplit(url)
    return clickhouse_connect.get_client(
        host="127.0.0.1",
        port=parts.port or 0,
        username=parts.username,
        password=parts.password or "",
        database=parts.path.removeprefix("/"),
        autogenerate_session_id=False,
        query_limit=0,
    )
