"""Which store EVENT_STORE_URL names."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from psycopg2.extensions import parse_dsn

from backend.eventlog.postgresql import PostgreSQLStore
from backend.eventlog.store import completed, connect

DATABASE = "postgresql://towpath:s%40cret@db:5433/towpath?sslmode=require"


@pytest.mark.parametrize(
    ("url", "complete"),
    [
        ("postgresql://", "postgresql://towpath:s%40cret@db:5433/event_log?sslmode=require"),
        ("postgresql:///logs", "postgresql://towpath:s%40cret@db:5433/logs?sslmode=require"),
        ("postgresql://other", "postgresql://other/event_log"),
        ("postgresql://u:p@other:1/logs?connect_timeout=9", "postgresql://u:p@other:1/logs?connect_timeout=9"),
        ("clickhouse://u:p@other:8123/logs", "clickhouse://u:p@other:8123/logs"),
        ("chdb:///var/lib/events", "chdb:///var/lib/events"),
    ],
)
def test_a_url_is_completed_from_the_applications_database(url: str, complete: str) -> None:
    assert completed(url, database_url=DATABASE) == complete


@pytest.mark.parametrize(
    ("database", "parameters"),
    [
        ({"NAME": "mysite"}, {}),
        ({"NAME": "mysite", "HOST": "/run/postgresql"}, {"host": "/run/postgresql"}),
        (
            {"NAME": "mysite", "USER": "me", "PASSWORD": "p@ss w&rd+", "HOST": "db", "PORT": 5433},
            {"user": "me", "password": "p@ss w&rd+", "host": "db", "port": "5433"},
        ),
        (
            {
                "NAME": "mysite",
                "HOST": "db",
                "OPTIONS": {"sslmode": "require", "isolation_level": 3, "assume_role": "x"},
            },
            {"host": "db", "sslmode": "require"},
        ),
    ],
)
@pytest.mark.parametrize(("url", "name"), [("postgresql://", "event_log"), ("postgresql:///logs", "logs")])
def test_a_url_without_a_server_means_that_of_the_project_s_databases(
    url: str, name: str, database: dict[str, Any], parameters: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty: dict[str, Any] = {"USER": "", "PASSWORD": "", "HOST": "", "PORT": "", "OPTIONS": {}}
    monkeypatch.setattr(connections["default"], "settings_dict", {**empty, **database})
    opened: dict[str, str] = {}
    monkeypatch.setattr(PostgreSQLStore, "__init__", lambda _self, complete, **_: opened.update(parse_dsn(complete)))

    connect(url, timeout_seconds=1)

    assert opened == {"dbname": name, **parameters}


@pytest.mark.parametrize(("url", "why"), [("mysql://root@db/logs", "'mysql'"), ("", "''"), ("chdb://", "a folder")])
def test_a_url_that_no_store_knows_is_refused(url: str, why: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=why):
        completed(url, database_url=DATABASE)


def test_a_misspelt_option_of_postgresql_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="EVENT_STORE_URL"):
        connect("postgresql://db/logs?sslmod=require", timeout_seconds=1)
