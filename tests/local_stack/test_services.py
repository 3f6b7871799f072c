"""The three services together, as a stack without the application."""

from __future__ import annotations

import re
import shutil
import socket
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pika
import psutil
import psycopg2
import pytest
import urllib3

from deploy.local import credentials, postgres
from deploy.local.ports import PREFERRED, Ports
from deploy.local.stack import Stack
from tests.local_stack.alive import is_alive
from tests.local_stack.conftest import any_free_port, connect
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

#: Ports of services that the machine may have: PostgreSQL, RabbitMQ, its management, Erlang's port mapper, ClickHouse.
USUAL_PORTS = (5432, 5672, 15672, 25672, 4369, 8123)


def take(ports: tuple[int, ...], stack: ExitStack) -> None:
    """Listen on ports like another program; one that is taken already serves as well."""
    for port in ports:
        listener = stack.enter_context(socket.socket())
        with suppress(OSError):
            listener.bind(("127.0.0.1", port))
            listener.listen()


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
                eventually(lambda: stack.pid(name) not in {None, before}, seconds=20)  # noqa: B023
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
    """As the README says it; `-K` takes the password from a file, which curl here stands for."""
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
    finally:
        server.stop()
