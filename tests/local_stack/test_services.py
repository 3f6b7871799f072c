"""The three services together, as a stack without the application."""

from __future__ import annotations

import os
import re
import shutil
import socket
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pika
import psutil
import psycopg2
import psycopg2.errors
import pytest
import urllib3

from deploy.local import credentials, postgres
from deploy.local.errors import StartError
from deploy.local.ports import PREFERRED, Ports
from deploy.local.stack import Stack
from tests.local_stack.alive import is_alive
from tests.local_stack.conftest import connect
from tests.ports import any_free_port
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timing

#: Ports of services that the machine may have: PostgreSQL, RabbitMQ, its management, Erlang's port mapper, ClickHouse.
USUAL_PORTS = (5432, 5672, 15672, 25672, 4369, 8123)


def take(ports: tuple[int, ...], stack: ExitStack) -> None:
    """Listen on ports like another program; one that is taken already serves as well."""
    for port in ports:
        listener = stack.enter_context(socket.socket())
        # A port whose connections have just ended is free for a server, and so it must be for this one.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            listener.bind(("127.0.0.1", port))
            listener.listen()


@pytest.mark.slow
@pytest.mark.own_services
def test_the_stack_runs_beside_others_survives_kills_and_leaves_nothing(tmp_path: Path) -> None:
    with ExitStack() as others:
        take((*USUAL_PORTS, *PREFERRED.values()), others)

        with Stack(tmp_path, has_application=False) as stack:
            assert stack.postgres is not None
            assert stack.rabbitmq is not None
            assert stack.clickhouse is not None
            assert stack.postgres.port not in PREFERRED.values()
            written = dict(line.split("=", 1) for line in (tmp_path / "stack.env").read_text().splitlines())
            assert written["DATABASE_URL"] == stack.postgres.url
            assert (tmp_path / "stack.env").stat().st_mode & 0o777 == 0o600
            processes = processes_of(stack)
            assert_only_on_loopback(processes)
            assert_for_its_owner_only(tmp_path)
            assert_clickhouse_answers_curl(tmp_path, stack.clickhouse.port)

            with pika.BlockingConnection(pika.URLParameters(written["RABBITMQ_URL"])) as connection:
                channel = connection.channel()
                channel.confirm_delivery()
                channel.queue_declare("kept", durable=True)
                channel.basic_publish("", "kept", b"x", pika.BasicProperties(delivery_mode=2))
            execute(written["DATABASE_URL"], "CREATE TABLE kept (x int); INSERT INTO kept VALUES (1)")

            for name in ("postgres", "rabbitmq", "clickhouse"):
                before = stack.pid(name)
                stack.kill(name)
                eventually(lambda: stack.pid(name) not in {None, before}, seconds=20)
            for service in (stack.postgres, stack.rabbitmq, stack.clickhouse):
                service.wait_until_ready()

            assert execute(written["DATABASE_URL"], "SELECT x FROM kept") == [(1,)]
            with pika.BlockingConnection(pika.URLParameters(written["RABBITMQ_URL"])) as connection:
                assert connection.channel().queue_declare("kept", passive=True).method.message_count == 1
            assert connect(stack.clickhouse).command("SELECT 1") == 1
            processes += processes_of(stack)

        assert not (tmp_path / "stack.env").exists()
        eventually(lambda: not any(process.is_running() and is_alive(process.pid) for process in processes), seconds=10)


def assert_for_its_owner_only(folder: Path) -> None:
    """Nobody else gets into the folder, and what has secrets or other people's data is closed by itself as well."""
    assert folder.stat().st_mode & 0o777 == 0o700
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {path.suffix for path in files} >= {".log", ".env"}
    for path in files:
        if path.suffix in {".log", ".env", ".curl", ".bin"} or "password" in path.name or "cookie" in path.name:
            assert path.stat().st_mode & 0o077 == 0, path


def assert_clickhouse_answers_curl(folder: Path, port: int) -> None:
    """As README.md says it; `-K` takes the password from a file, which curl here stands for."""
    (line,) = (folder / "clickhouse.curl").read_text().splitlines()
    user = re.fullmatch(r'user = "(.*)"', line)
    assert user is not None
    headers = urllib3.make_headers(basic_auth=user[1])
    answer = urllib3.request("GET", f"http://127.0.0.1:{port}/?query=SELECT+41%2B1", headers=headers)
    assert (answer.status, answer.data) == (200, b"42\n")


def test_the_folder_of_all_stacks_is_closed_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = tmp_path / ".local"
    local.mkdir(mode=0o755)
    monkeypatch.setattr(credentials, "LOCAL", local)

    credentials.private_folder(local / "demo")

    assert [path.stat().st_mode & 0o777 for path in (local, local / "demo")] == [0o700, 0o700]
    assert tmp_path.stat().st_mode & 0o777 == 0o700  # pytest's own, and untouched


def test_a_service_whose_url_is_given_is_not_started(tmp_path: Path) -> None:
    given = {
        "DATABASE_URL": "postgresql://elsewhere/db",
        "RABBITMQ_URL": "amqp://elsewhere",
        "CLICKHOUSE_URL": "clickhouse://elsewhere/db",
    }

    with Stack(tmp_path, has_application=False, environment=given) as stack:
        assert stack.supervisor.names == []
        assert stack.environment["EVENT_STORE_URL"] == "clickhouse://elsewhere/db"
        assert stack.environment["DATABASE_URL"] == "postgresql://elsewhere/db"


def test_a_stack_with_a_store_of_its_own_verifies_and_explores_in_no_other(tmp_path: Path) -> None:
    given = {"DATABASE_URL": "postgresql://elsewhere/db", "RABBITMQ_URL": "amqp://elsewhere"}

    with Stack(tmp_path, has_application=False, environment=given) as stack:
        assert stack.supervisor.names == ["clickhouse"]
        # An empty one counts as unset, whatever the shell has.
        assert stack.environment["EVENT_STORE_VERIFIER_URL"] == stack.environment["EVENT_STORE_EXPLORER_URL"] == ""


def test_two_stacks_that_start_together_never_choose_the_same_port(tmp_path: Path) -> None:
    first, second = Ports(tmp_path / "first.json"), Ports(tmp_path / "second.json")

    chosen = {ports.choose(name) for name in PREFERRED for ports in (first, second)}

    assert len(chosen) == 2 * len(PREFERRED)
    first.release()
    second.release()


def test_a_stack_keeps_its_ports(tmp_path: Path) -> None:
    before = Ports(tmp_path / "ports.json")
    web = before.choose("web")
    before.release()

    after = Ports(tmp_path / "ports.json")

    assert after.choose("web") == web
    after.release()


def processes_of(stack: Stack) -> list[psutil.Process]:
    leaders = [psutil.Process(stack.pid(name)) for name in stack.supervisor.names]
    return leaders + [child for leader in leaders for child in leader.children(recursive=True)]


def assert_only_on_loopback(processes: list[psutil.Process]) -> None:
    sockets = [each for process in processes for each in process.net_connections("tcp")]
    listening = {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN}
    assert listening <= {"127.0.0.1", "::1"}
    assert "127.0.0.1" in listening


def execute(url: str, query: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def test_postgresql_runs_from_a_folder_that_only_its_owner_can_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root, the server is another account, which must get at its programs in root's own folders all the same."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    package = postgres.binaries().parents[1]
    for folder in package.parent.glob(f"{package.name}*"):  # beside it, its libraries
        shutil.copytree(folder, private / folder.name)
    binaries = private / postgres.binaries().relative_to(package.parent)
    monkeypatch.setattr(postgres, "binaries", lambda: binaries)
    server = postgres.Postgres(private / "data", any_free_port(), tmp_path / "log")

    server.start()
    try:
        server.wait_until_ready()
        assert server.check_ready()
        # And nothing more: as root, the account has none of root's powers, in the server or in what it starts.
        if os.geteuid() == 0:
            for child in ("checkpointer", "walwriter", "logical replication launcher"):
                sql = f"SELECT pid FROM pg_stat_activity WHERE backend_type = '{child}'"
                ((pid,),) = execute(server.superuser_url, sql)
                status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
                assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
                assert status["NoNewPrivs"] == "1"
                assert "0" not in status["Uid"].split()
            secret = private / "secret"
            secret.write_text("root's")
            with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="could not open file"):
                execute(server.superuser_url, f"SELECT pg_read_file('{secret}')")
    finally:
        server.stop()


@pytest.mark.parametrize(
    "query",
    [
        "SELECT pg_read_file('/etc/hostname')",
        "SELECT pg_read_binary_file('/etc/hostname')",
        "SELECT pg_ls_dir('/')",
        "SELECT pg_stat_file('/etc/hostname')",
        "SELECT lo_import('/etc/hostname')",
        "SELECT lo_export(lo_create(0), '/tmp/towpath-out')",
        "COPY (SELECT 1) TO '/tmp/towpath-out'",
        "COPY (SELECT 1) TO PROGRAM 'touch /tmp/towpath-out'",
        "CREATE TEMPORARY TABLE t (x text); COPY t FROM '/etc/hostname'",
        "CREATE TEMPORARY TABLE t (x text); COPY t FROM PROGRAM 'id'",
        "CREATE FUNCTION f() RETURNS int LANGUAGE c AS '/lib/x86_64-linux-gnu/libc.so.6', 'getpid'",
        "LOAD '/tmp/x.so'",
        "ALTER ROLE towpath SUPERUSER",
        "CREATE ROLE another SUPERUSER",
        "GRANT pg_read_server_files TO towpath",
        "GRANT pg_execute_server_program TO towpath",
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "ALTER SYSTEM SET archive_command = 'touch /tmp/towpath-out'",
        "CREATE EXTENSION file_fdw",
        "SELECT * FROM pg_authid",
    ],
)
def test_the_application_s_role_reaches_neither_files_nor_programs_nor_more_rights(
    local_postgres: postgres.Postgres, query: str
) -> None:
    assert execute(local_postgres.url, "SELECT current_setting('is_superuser'), current_user") == [("off", "towpath")]

    with closing(psycopg2.connect(local_postgres.url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        with pytest.raises((psycopg2.errors.InsufficientPrivilege, psycopg2.errors.FeatureNotSupported)):
            cursor.execute(query)

    assert not Path("/tmp/towpath-out").exists()  # noqa: S108 - the point is that it is not made


def test_the_data_of_an_older_version_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    server = postgres.Postgres(tmp_path, any_free_port(), tmp_path / "log")

    with pytest.raises(StartError, match=r"older version, whose application was a superuser: move that folder away"):
        server.start()


@pytest.fixture(scope="module")
def local_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Postgres]:
    """As a stack has it: what tests may do more elsewhere, is not granted here."""
    folder = tmp_path_factory.mktemp("postgres")
    server = postgres.Postgres(folder, any_free_port(), folder / "log")
    server.start()
    server.wait_until_ready()
    yield server
    server.stop()
