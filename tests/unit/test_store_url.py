"""Which store EVENT_STORE_URL names."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from psycopg2.extensions import parse_dsn

from towpath.checks import check_settings
from towpath.eventlog.connect import connect, require_known, with_server
from towpath.eventlog.stores.clickhouse.url import address
from towpath.eventlog.stores.postgresql.store import PostgreSQLStore

if TYPE_CHECKING:
    from tests.knobs import Knobs

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
    assert with_server(url, database_url=DATABASE) == complete


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
    empty: dict[str, Any] = {"USER": "", "PASSWORD": "", "HOST": "", "PORT": "", "OPTIONS": {}, "TIME_ZONE": None}
    monkeypatch.setattr(connections["default"], "settings_dict", {**empty, **database})
    opened: dict[str, str] = {}
    monkeypatch.setattr(PostgreSQLStore, "__init__", lambda _self, complete, **_: opened.update(parse_dsn(complete)))

    connect(url, timeout_seconds=1)

    assert opened == {"dbname": name, **parameters}


@pytest.mark.parametrize(("url", "why"), [("mysql://root@db/logs", "'mysql'"), ("", "''"), ("chdb://", "a folder")])
def test_a_url_that_no_store_knows_is_refused(url: str, why: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=why):
        with_server(url, database_url=DATABASE)


def test_a_misspelt_option_of_postgresql_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="EVENT_STORE_URL"):
        connect("postgresql://db/logs?sslmod=require", timeout_seconds=1)


SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        (
            "clickhouse://u:p%40ss@h:9/db",
            {"host": "h", "port": 9, "username": "u", "password": "p@ss", "database": "db"},
        ),
        ("clickhouse://h", {"port": 8123, "database": "default", "username": "default", "is_secure": False}),
        ("clickhouses://h/db/", {"port": 8443, "database": "db", "is_secure": True}),
        ("https://h", {"port": 8443, "is_secure": True}),
        ("clickhouse://h:8443", {"port": 8443, "is_secure": True}),
        ("clickhouse://h?secure=true", {"port": 8443, "is_secure": True}),
        ("clickhouse://h:8443?secure=false", {"port": 8443, "is_secure": False}),
        ("clickhouse://h?database=x", {"database": "x"}),
        ("clickhouse://h/x?database=x", {"database": "x"}),
        ("clickhouse://h//x", {"database": "x"}),
        ("clickhouse://[::1]:8124/db", {"host": "::1", "port": 8124, "database": "db"}),
        ("clickhouse://h?connect_timeout=10", {"options": (("connect_timeout", 10),)}),
        ("clickhouse://h", {"options": (("connect_timeout", 5),)}),
        ("clickhouse://h?compress=lz4", {"options": (("connect_timeout", 5), ("compress", "lz4"))}),
        ("clickhouse://h?compress=false", {"options": (("connect_timeout", 5), ("compress", False))}),
        ("clickhouses://h?verify=false", {"options": (("connect_timeout", 5), ("verify", False))}),
        ("clickhouses://h?ca_cert=%2Fca.pem", {"options": (("connect_timeout", 5), ("ca_cert", "/ca.pem"))}),
        (
            "clickhouse://h?http_proxy=http://u:p@proxy:3128",
            {"options": (("connect_timeout", 5), ("http_proxy", "http://u:p@proxy:3128"))},
        ),
        ("chdb:///var/lib/a@b/events", {"folder": "/var/lib/a@b/events"}),
    ],
)
def test_an_option_of_clickhouse_has_its_meaning(url: str, wanted: dict[str, Any]) -> None:
    found = address(url)

    assert {name: getattr(found, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"clickhouse://u:{SECRET}@h/db?max_execution_time=10", "max_execution_time is not an option .*ALTER USER"),
        (f"clickhouse://u:{SECRET}@h/db?send_receive_timeout=60", "STORE_TIMEOUT_SECONDS"),
        (f"clickhouse://h/db?password={SECRET}", "before the host"),
        (f"clickhouse://u:{SECRET}@h/db?conect_timeout=10", "conect_timeout .*It takes: .*connect_timeout"),
        (f"clickhouse://u:{SECRET}@h/db?connect_timeout=soon", "connect_timeout must be a whole number"),
        (f"clickhouse://u:{SECRET}@h/db?connect_timeout=", "connect_timeout has no value"),
        (f"clickhouse://u:{SECRET}@h/db?verify=no&verify=yes", "verify is given twice"),
        (f"clickhouse://u:{SECRET}@h/db?secure=maybe", "secure must be true or false"),
        (f"clickhouse://u:{SECRET}@h/db?compress=rar", "compress must be true or false or"),
        (f"clickhouses://u:{SECRET}@h/db?secure=false", "means TLS"),
        (f"clickhouse://u:{SECRET}@h/db?database=other", "two databases"),
        (f"clickhouse://u:{SECRET}@h/db/table", "one database"),
        (f"clickhouse://u:{SECRET}@/db", "no host"),
        ("clickhouse:///db", "no host"),
        ("clickhouse:", "no host"),
        (f"clickhouse://u:{SECRET}@h:99999/db", "port"),
        (f"clickhouse://u:{SECRET}@h:http/db", "port"),
        (f"clickhouse://u:{SECRET}@h:0/db", "port 0"),
        (f"clickhouse://u:{SECRET}@[::1/db", "IPv6"),
        (f"clickhouse://u:{SECRET}#x@h/db", "percent-encode|%23"),
        (f"clickhouse://u:12#{SECRET}@h/db", "%23"),
        (f"clickhouse://u:?{SECRET}@h/db", "percent-encode"),
        (f"clickhouse://u:12?{SECRET}=x@h/db", "percent-encode"),
        (f"clickhouse://u:12/{SECRET}@h", "percent-encode"),
        (f"chdb:///folder?password={SECRET}", "no options"),
        ("chdb:///", "a folder"),
        (f"postgresql://u:{SECRET}@h/db?sslmode=on", "sslmode must be one of"),
        (f"postgresql://u:{SECRET}@h/db?secure=true", "secure is not an option of libpq"),
        (f"postgresql://u:{SECRET}@h/db?connect_timeout=soon", "connect_timeout must be"),
        (f"postgresql://u:{SECRET}@h/db?replication=database", "replication"),
        (f"postgresql://u:{SECRET}@h/db?target_session_attrs=standby", "target_session_attrs"),
        (f"postgresql://u:{SECRET}@h/db?client_encoding=LATIN1", "client_encoding must be UTF8"),
        (f"postgresql://u:%{SECRET}@h/db", "percent-encode"),
        (f"postgresql://[{SECRET}/db", "percent-encode"),
        (f"postgresql://u:{SECRET}@[::1]x/db", "percent-encode"),
    ],
)
def test_what_a_url_cannot_mean_is_refused_by_name_and_without_its_password(url: str, why: str) -> None:
    for use in (require_known, partial(with_server, database_url=DATABASE), partial(connect, timeout_seconds=1)):
        with pytest.raises(ImproperlyConfigured, match=why) as refused:
            use(url)
        assert SECRET not in str(refused.value)
        assert refused.value.__cause__ is None


def test_manage_py_check_names_the_option_of_a_project_s_own_setting(knobs: Knobs) -> None:
    knobs(event_store_url=f"clickhouse://u:{SECRET}@h/db?max_execution_time=10")

    (error,) = [one for one in check_settings() if one.id == "pipeline.E020"]

    assert "max_execution_time is not an option" in error.msg
    assert SECRET not in error.msg


def test_an_option_of_databases_that_the_store_beside_it_cannot_have_is_named_by_check(
    knobs: Knobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    knobs(event_store_url="postgresql://")
    assert not [one for one in check_settings() if one.id == "pipeline.E020"]
    monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", {"service": "mysite"})

    (error,) = [one for one in check_settings() if one.id == "pipeline.E020"]

    assert error.msg == "EVENT_STORE_URL: the option service cannot be used, write host and database into the URL"


@pytest.mark.parametrize("options", [{"options": "-c search_path=app"}, {"application_name": "web"}])
def test_options_of_the_applications_database_are_not_those_of_the_event_store(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = {"USER": "", "PASSWORD": "", "PORT": "", "TIME_ZONE": None}
    database = {**empty, "NAME": "mysite", "HOST": "db", "OPTIONS": options}
    monkeypatch.setattr(connections["default"], "settings_dict", database)
    opened: dict[str, str] = {}
    monkeypatch.setattr(PostgreSQLStore, "__init__", lambda _self, complete, **_: opened.update(parse_dsn(complete)))

    connect("postgresql://", timeout_seconds=1)

    assert opened == {"dbname": "event_log", "host": "db"}
    of_url = with_server(
        "postgresql://", database_url="postgresql://db/app?options=-csearch_path%3Dapp&sslmode=require"
    )
    assert of_url == "postgresql://db/event_log?sslmode=require"
