"""deploy/clickhouse on the real engine: rights and limits of each user, and the files of the tables."""

from __future__ import annotations

import http.client
import re
import uuid
from contextlib import closing
from typing import TYPE_CHECKING

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from deploy.clickhouse.tables import files
from deploy.clickhouse.users import grants, profile, statements
from deploy.local.process import PROJECT
from tests.deploy.clickhouse_endpoint import Endpoint, empty_engine, endpoint
from towpath.eventlog.columns import Kind, row_columns
from towpath.eventlog.connect import connect
from towpath.eventlog.errors import StoreUnavailable
from towpath.eventlog.values import DEFAULTS

if TYPE_CHECKING:
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from tests.services import Services

__all__ = ["empty_engine", "endpoint"]

_VALUES = {**DEFAULTS, Kind.TEXT: "a", Kind.WHOLE_NUMBER: "1", Kind.TIME: "2026-03-04 05:06:07.1+00"}
_NOT_GRANTED = 497
_READ_ONLY = 164
_USERS = ("towpath_migrator", "towpath_writer", "towpath_reader")


def test_each_user_may_do_its_part_and_no_more(endpoint: Endpoint) -> None:
    """The engine enforces the grants of users.sql while the product's own code migrates, writes and reads back."""
    window = uuid.uuid4()
    values = {**_VALUES, Kind.UUID: str(window)}
    row = "\t".join(values[column.kind] for column in row_columns()).encode() + b"\n"

    with endpoint.as_user("towpath_migrator") as port:
        store = connect(f"clickhouse://127.0.0.1:{port}/towpath", timeout_seconds=20)
        for migration in store.migrations():
            store.apply_migration(migration)
        assert set(store.applied_migrations()) == {migration.number for migration in store.migrations()}
        assert store.problems() == []
        store.close()
        _refused(port, "DROP TABLE event_log")
        _refused(port, "TRUNCATE TABLE event_log")
        _refused(port, "ALTER TABLE event_log DROP COLUMN actor")
        _refused(port, "ALTER TABLE event_log DELETE WHERE 1")
        _refused(port, "CREATE DATABASE other")

    with endpoint.as_user("towpath_writer") as port:
        store = connect(f"clickhouse://127.0.0.1:{port}/towpath", timeout_seconds=20)
        store.write(row, row_count=1, token=str(window))
        store.write(row, row_count=1, token=str(window))
        assert store.read_back(window) == {("a", 1)}
        assert store.problems() == []
        assert [one for one in store.findings() if not one.is_ok] == []
        assert store.now()
        assert set(store.applied_migrations()) == {migration.number for migration in store.migrations()}
        store.close()
        _refused(port, "SELECT event_context FROM event_log")
        _refused(port, "SELECT * FROM event_log")
        _refused(port, "ALTER TABLE event_log DELETE WHERE 1")
        _refused(port, "DELETE FROM event_log WHERE 1")
        _refused(port, "ALTER TABLE event_log DROP PARTITION '202603'")
        _refused(port, "ALTER TABLE event_log ADD COLUMN x String")
        _refused(port, "INSERT INTO event_log_migration (number) SELECT 1")

    with endpoint.as_user("towpath_reader") as port:
        client = _client(port)
        assert client.query("SELECT outbox_id, event_context FROM event_log").result_rows == [(1, "a")]
        _refused(port, "INSERT INTO event_log (outbox) SELECT 'forged'")
        _refused(port, "ALTER TABLE event_log DELETE WHERE 1")
        _refused(port, "SET max_memory_usage = 0", code=_READ_ONLY)
        _refused(port, "SELECT sleep(1) SETTINGS max_execution_time = 0", code=_READ_ONLY)
        for name, value in profile("towpath_reader").items():
            in_force = client.query("SELECT value FROM system.settings WHERE name = %s", [name]).result_rows
            assert in_force == [(value,)]
        client.close()
        # What `pipeline verify` asks is the writer's, and it says so.
        store = connect(f"clickhouse://127.0.0.1:{port}/towpath", timeout_seconds=20)
        with pytest.raises(StoreUnavailable, match="need the privileges of towpath_writer"):
            store.counts([window])
        # Nothing was sent, so nothing is unknown: it is the configuration.
        with pytest.raises(StoreUnavailable, match="User default of EVENT_STORE_URL lacks the right for this"):
            store.write(row, row_count=1, token=str(uuid.uuid4()))
        store.close()


@pytest.mark.parametrize("user", _USERS)
def test_no_user_reaches_a_file_an_address_or_a_program(endpoint: Endpoint, tmp_path: Path, user: str) -> None:
    """By the grants of users.sql alone: what the local endpoint refuses by itself is not tried."""
    secret, out = tmp_path / "secret", tmp_path / "out"
    secret.write_text("s3cret")
    with endpoint.as_user(user) as port:
        for sql in (
            f"SELECT * FROM file('{secret}', 'LineAsString')",
            f"INSERT INTO FUNCTION file('{out}', 'TSV', 'x UInt8') SELECT 1",
            f"CREATE TABLE towpath.v (x String) ENGINE = File(LineAsString, '{secret}')",
            "SELECT * FROM url('http://127.0.0.1:9/', 'LineAsString')",
            "CREATE TABLE towpath.v (x String) ENGINE = URL('http://127.0.0.1:9/', 'LineAsString')",
            "SELECT * FROM s3('http://127.0.0.1:9/bucket/key', 'LineAsString')",
            "SELECT * FROM remote('127.0.0.1:9', 'system', 'one')",
            "SELECT * FROM mysql('127.0.0.1:9', 'a', 'b', 'c', 'd')",
            "SELECT * FROM postgresql('127.0.0.1:9', 'a', 'b', 'c', 'd')",
            "CREATE DICTIONARY towpath.v (x UInt64) PRIMARY KEY x SOURCE(FILE(path 'x' format 'TSV')) LAYOUT(FLAT())",
            "CREATE FUNCTION v AS (x) -> x",
            f"BACKUP TABLE towpath.event_log TO File('{out}')",
            "GRANT FILE ON *.* TO default",
        ):
            _refused(port, sql)
    assert not out.exists()


def test_the_engine_understands_every_statement_of_users_sql(services: Services) -> None:
    """Users cannot be made in the embedded engine: its parser reads the statements, its list has the settings."""
    for statement in statements():
        _parse(services, statement)
    known = set(_embedded(services, "SELECT name FROM system.settings").split())
    for user in ("towpath_writer", "towpath_reader"):
        assert profile(user)
        assert set(profile(user)) <= known


def test_every_statement_of_users_sql_is_taken_over_by_the_test() -> None:
    """A statement that the tests above do not recognise would not be tested."""
    made = r"CREATE (DATABASE IF NOT EXISTS towpath|SETTINGS PROFILE OR REPLACE \w+ .*|USER OR REPLACE \w+ .*)"
    granted = [grant for user in _USERS for grant in grants(user)]
    for statement in statements():
        assert re.fullmatch(made, statement) or statement.rpartition(" TO ")[0] in granted, statement
    for user in _USERS:
        assert grants(user)
        (creation,) = (one for one in statements() if one.startswith(f"CREATE USER OR REPLACE {user} "))
        assert creation.endswith(f"SETTINGS PROFILE '{user}'") == bool(profile(user))


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_the_file_of_the_tables_says_what_the_migrations_say(path: Path) -> None:
    assert path.read_text() == files()[path], "run: python -m deploy.clickhouse.tables"


def test_the_single_node_file_makes_a_table_that_the_migrations_find_up_to_date(endpoint: Endpoint) -> None:
    with endpoint.as_user("towpath_migrator") as port:
        client = _client(port)
        for statement in _statements(PROJECT / "deploy" / "clickhouse" / "event_log.sql"):
            client.command(statement)
        client.close()
        store = connect(f"clickhouse://127.0.0.1:{port}/towpath", timeout_seconds=20)
        assert store.problems() == []
        for migration in store.migrations():
            store.apply_migration(migration)
        assert store.problems() == []
        store.close()


def test_the_replicated_file_differs_in_what_replicas_need_only(services: Services) -> None:
    """Replication needs Keeper, which the embedded engine has not: its parser reads the file, its list the settings."""
    text = "\n".join(_statements(PROJECT / "deploy" / "clickhouse" / "event_log_replicated.sql"))
    for statement in _statements(PROJECT / "deploy" / "clickhouse" / "event_log_replicated.sql"):
        _parse(services, statement)
    assert text.count("ENGINE = ReplicatedMergeTree") == text.count("CREATE TABLE") == text.count("ON CLUSTER") == 2
    assert "non_replicated" not in text
    known = set(_embedded(services, "SELECT name FROM system.replicated_merge_tree_settings").split())
    named = {word for line in text.splitlines() if line.startswith("SETTINGS") for word in re.findall(r"(\w+) =", line)}
    assert {"replicated_deduplication_window", "replicated_deduplication_window_seconds"} <= named <= known


def _embedded(services: Services, sql: str) -> str:
    """The answer of the engine behind the run's endpoint."""
    with closing(http.client.HTTPConnection("127.0.0.1", services.clickhouse.port, timeout=30)) as connection:
        headers = {
            "X-ClickHouse-User": services.clickhouse.user or "default",
            "X-ClickHouse-Key": services.clickhouse.password,
        }
        connection.request("POST", "/?default_format=TabSeparated", sql.encode(), headers)
        response = connection.getresponse()
        text = response.read().decode()
    assert response.status == http.client.OK, text
    return text


def _parse(services: Services, statement: str) -> None:
    """Fails unless the engine's parser understands the statement."""
    quoted = statement.replace("\\", "\\\\").replace("'", "\\'")
    assert _embedded(services, f"SELECT formatQuery('{quoted}')").strip()


def _statements(path: Path) -> list[str]:
    text = re.sub(r"^--[^\n]*\n", "", path.read_text(), flags=re.MULTILINE)
    return [statement.strip() for statement in text.split(";") if statement.strip()]


def _client(port: int) -> Client:
    return clickhouse_connect.get_client(
        host="127.0.0.1", port=port, database="towpath", autogenerate_session_id=False, query_limit=0
    )


def _refused(port: int, sql: str, *, code: int = _NOT_GRANTED) -> None:
    client = _client(port)
    with pytest.raises(DatabaseError) as refused:
        client.command(sql)
    client.close()
    assert refused.value.code == code, f"{sql}: {refused.value}"
