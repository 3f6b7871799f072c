"""Services for the tests of deploy/local, each on a port of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deploy.local.clickhouse import ClickHouse
from tests.clickhouse import client_of
from tests.ports import any_free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clickhouse_connect.driver.client import Client


def connect(server: ClickHouse) -> Client:
    return client_of(server)


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    folder: Path = tmp_path_factory.mktemp("clickhouse")
    server = ClickHouse(folder / "data", any_free_port(), folder / "clickhouse.log")
    server.start()
    server.wait_until_ready()
    yield server
    server.stop()


@pytest.fixture
def client(server: ClickHouse) -> Iterator[Client]:
    """A client and the empty table `t` with a memory of the last hundred tokens."""
    client = connect(server)
    client.command("DROP TABLE IF EXISTS t SYNC")
    client.command(
        "CREATE TABLE t (id UInt64, text String, note Nullable(String)) ENGINE = MergeTree ORDER BY id "
        "SETTINGS non_replicated_deduplication_window = 100"
    )
    yield client
    client.close()


def count(client: Client) -> int:
    return int(client.query("SELECT count() FROM t").result_rows[0][0])
