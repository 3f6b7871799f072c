"""Connections to a ClickHouse endpoint of the local stack, with its user and password."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import clickhouse_connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clickhouse_connect.driver.client import Client

    from deploy.local.clickhouse import ClickHouse


def client_of(server: ClickHouse, **parameters: Any) -> Client:
    """A client that may be used by several threads. `port` and the like may be others than the server's own."""
    known = {"host": "127.0.0.1", "port": server.port, "username": server.user or None, "password": server.password}
    return clickhouse_connect.get_client(**{"autogenerate_session_id": False, **known, **parameters})


@contextlib.contextmanager
def database_of(server: ClickHouse, name: str) -> Iterator[Client]:
    """A client, while there is a database of this name."""
    with contextlib.closing(client_of(server)) as client:
        client.command(f"CREATE DATABASE IF NOT EXISTS {name}")
        yield client
        client.command(f"DROP DATABASE IF EXISTS {name}")


def url_of(
    server: ClickHouse, *, database: str = "default", port: int | None = None, scheme: str = "clickhouse"
) -> str:
    """As EVENT_STORE_URL has it; `port` may be that of something in front of the server."""
    parts = urlsplit(server.url)
    user = parts.netloc.rpartition("@")[0]
    netloc = f"{user}@127.0.0.1:{port or server.port}" if user else f"127.0.0.1:{port or server.port}"
    return parts._replace(scheme=scheme, netloc=netloc, path=f"/{database}").geturl()
