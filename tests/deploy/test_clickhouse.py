"""deploy/clickhouse on the real engine: rights and limits of each user, and the files of the tables."""

from __future__ import annotations

import http.client
import re
import uuid
from contextlib import closing
from datetime import date
from typing import TYPE_CHECKING

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from deploy.clickhouse.tables import files
from deploy.clickhouse.users import SHORT_NAMES, fixed, grants, profile, statements
from deploy.local.process import PROJECT
from tests.deploy.clickhouse_endpoint import Endpoint, copied, empty_engine, endpoint
from towpath.eventlog.columns import Kind, row_columns
from towpath.eventlog.connect import connect
from towpath.eventlog.errors import StoreUnavailable
from towpath.eventlog.masking import MASK_OF_CONTEXT
from towpath.eventlog.query import Query
from towpath.eventlog.store import MaskedRow
from towpath.eventlog.values import DEFAULTS

if TYPE_CHECKING:
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from tests.services import Services
    from towpath.eventlog.store import Store

__all__ = ["empty_engine", "endpoint"]

_WINDOW = uuid.UUID("11111111-2222-4333-8444-555555555555")
_VALUES = {**DEFAULTS, Kind.TEXT: "a", Kind.WHOLE_NUMBER: "1", Kind.TIME: "2026-03-04 05:06:07.1+00"}
_NOT_GRANTED = 497
_READ_ONLY = 164
_CONSTRAINED = 452
_USERS = tuple(f"towpath_{name}" for name in SHORT_NAMES)


@pytest.fixture(scope="module")
def engine_with_a_row(empty_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an engine with our tables and one event, to be copied."""
    folder = tmp_path_factory.mktemp("stored")
    with copied(empty_engine, folder).as_user("administrator") as port, closing(_store(port)) as store:
        for migration in store.migrations():
            store.apply_migration(migration)
        store.write(_row(_WINDOW), row_count=1, token=str(_WINDOW))
    return folder


@pytest.fixture
def stored_row(engine_with_a_row: Path, tmp_path: Path) -> Endpoint:
    """An engine with our tables and one event."""
    return copied(engine_with_a_row, tmp_path)


def test_each_user_may_do_its_part_and_no_more(endpoint: Endpoint) -> None:
    """The engine enforces the grants of users.sql while the product's own code migrates, writes and reads back."""
    window = uuid.uuid4()
    row = _row(window)

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
        # What `pipeline verify` asks is the verifier's, and it says so.
        store = connect(f"clickhouse://127.0.0.1:{port}/towpath", timeout_seconds=20)
        with pytest.raises(StoreUnavailable, match="need the privileges of towpath_writer"):
            store.counts([window])
        # Nothing was sent, so nothing is unknown: it is the configuration.
        with pytest.raises(StoreUnavailable, match="User default of the event store lacks the privilege for this"):
            store.write(row, row_count=1, token=str(uuid.uuid4()))
        store.close()


def test_the_verifier_reads_every_column_and_does_nothing_else(stored_row: Endpoint) -> None:
    with stored_row.as_user("towpath_verifier") as port, closing(_store(port)) as store:
        assert store.reading_problems() == []
        assert [event.event_context for event in store.stream("a")] == ["a"]
        assert store.read_back(_WINDOW) == {("a", 1)}
        assert store.counts([_WINDOW]) == {_WINDOW: {"a": 1}}
        (digest,) = store.window_digests([_WINDOW], columns=["outbox", "outbox_id", "event_context"])
        assert (digest.window_id, digest.rows) == (_WINDOW, 1)
        assert len(store.row_digests(_WINDOW, columns=["event_context"])) == 1
        assert [list(store.windows_of(month)) for month in store.months()] == [[_WINDOW]]
        for sql in (
            "INSERT INTO event_log (outbox) SELECT 'forged'",
            "ALTER TABLE event_log DELETE WHERE 1",
            "ALTER TABLE event_log UPDATE event_context = '' WHERE 1",
            "ALTER TABLE event_log DROP PARTITION '202603'",
            "ALTER TABLE event_log ADD COLUMN x String",
            "DELETE FROM event_log WHERE 1",
            "TRUNCATE TABLE event_log",
            "DROP TABLE event_log",
            "CREATE TABLE mine (x String) ENGINE = MergeTree ORDER BY x",
        ):
            _refused(port, sql)
        _refused(port, "SELECT * FROM event_log_migration")


def test_the_verifier_sees_what_was_deleted_as_missing_and_a_row_policy_as_that(stored_row: Endpoint) -> None:
    with stored_row.as_user("administrator") as port, closing(_client(port)) as client:
        client.command("DELETE FROM event_log WHERE 1")

    with stored_row.as_user("towpath_verifier") as port, closing(_store(port)) as store:
        assert store.read_back(_WINDOW) == set()
        assert store.reading_problems() == []
    with stored_row.as_user("towpath_verifier", "--filter=outbox_id > 1") as port, closing(_store(port)) as store:
        (problem,) = store.reading_problems()
        assert "a row policy hides the others" in problem


def test_the_verifier_cannot_lift_the_limits_that_leave_inserts_their_server(stored_row: Endpoint) -> None:
    assert {"max_threads", "max_memory_usage", "max_concurrent_queries_for_user"} <= {*fixed("towpath_verifier")}
    with stored_row.as_user("towpath_verifier") as port, closing(_client(port)) as client:
        for name, value in profile("towpath_verifier").items():
            in_force = client.query("SELECT value FROM system.settings WHERE name = %s", [name]).result_rows
            assert in_force == [(value,)]
        for name in fixed("towpath_verifier"):
            _refused(port, f"SELECT 1 SETTINGS {name} = 9", code=_CONSTRAINED)
        _refused(port, "SELECT 1 SETTINGS readonly = 0", code=_READ_ONLY)


def test_who_may_not_read_a_context_is_told_the_grant_that_is_missing(stored_row: Endpoint) -> None:
    with stored_row.as_user("towpath_writer") as port, closing(_store(port)) as store:
        (problem,) = store.reading_problems()

    assert problem == (
        "user default may not read every column of towpath.event_log: run GRANT SELECT ON towpath.event_log TO default"
    )


def test_who_may_not_keep_the_log_is_told_the_grant_that_is_missing(stored_row: Endpoint) -> None:
    with stored_row.as_user("towpath_verifier") as port, closing(_store(port)) as store:
        problems = [*store.keeping_problems("drop"), *store.keeping_problems("rewrite")]

    assert problems == [
        f"user default lacks {right} on towpath.event_log: use the URL of towpath_keeper (docs/deployment.md), or run"
        f" GRANT {right} ON towpath.event_log TO default"
        for right in ("ALTER DELETE", "ALTER UPDATE")
    ]


def test_the_keeper_drops_a_month_and_rewrites_a_row_and_can_neither_insert_nor_drop_the_table(
    stored_row: Endpoint,
) -> None:
    with stored_row.as_user("towpath_keeper") as port, closing(_client(port)) as client:
        # Without this, a server drops no partition above 50 GB.
        limit = client.query("SELECT value FROM system.settings WHERE name = 'max_partition_size_to_drop'")
        assert limit.result_rows == [("0",)]
        with closing(_store(port)) as store:
            assert [*store.keeping_problems("drop"), *store.keeping_problems("rewrite")] == []
            (window,) = store.windows_of(date(2026, 3, 1))
            (event,) = store.read_rows([window], Query())
            store.rewrite([MaskedRow(event, ((0, len(event.event_context)),), ())], mask=MASK_OF_CONTEXT)
        assert client.query("SELECT event_context FROM event_log").result_rows == [(MASK_OF_CONTEXT,)]
        assert client.query("SELECT is_done FROM system.mutations").result_rows == [(1,)]
        assert client.query("SELECT partition FROM system.parts WHERE active").result_rows == [("202603",)]
        for sql in (
            "INSERT INTO event_log (outbox) SELECT 'forged'",
            "INSERT INTO event_log_migration (number) SELECT 1",
            "SELECT * FROM event_log_migration",
            "ALTER TABLE event_log ADD COLUMN x String",
            "ALTER TABLE event_log DROP COLUMN actor",
            "ALTER TABLE event_log MODIFY SETTING fsync_after_insert = 0",
            "ALTER TABLE event_log_migration DELETE WHERE 1",
            "TRUNCATE TABLE event_log",
            "DROP TABLE event_log",
            "CREATE TABLE mine (x String) ENGINE = MergeTree ORDER BY x",
        ):
            _refused(port, sql)

        with closing(_store(port)) as store:
            store.drop_month(date(2026, 3, 1), windows=1)

        assert client.query("SELECT count() FROM event_log").result_rows == [(0,)]


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
    for user in set(_USERS) - {"towpath_migrator"}:
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


def _row(window: uuid.UUID) -> bytes:
    values = {**_VALUES, Kind.UUID: str(window)}
    return "\t".join(values[column.kind] for column in row_columns()).encode() + b"\n"


def _store(port: int) -> Store:
    return connect(f"clickhouse://127.0.0.1:{port}/towpath", timeout_seconds=20)


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
