"""The settings of the product, from an environment."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.core.exceptions import ImproperlyConfigured

from deploy.local.process import PROJECT
from towpath.checks import check_settings
from towpath.conf.config import Config
from towpath.conf.environment import Environment
from towpath.outbox.checks import check_outboxes
from towpath.wiring import event_store, explorer_store, verifier_store

if TYPE_CHECKING:
    from tests.knobs import Knobs


def read(**variables: str) -> Config:
    return Config.from_environment(Environment(variables))


def test_an_empty_environment_gives_the_defaults_of_the_fields() -> None:
    assert read() == Config()


def test_a_variable_sets_the_field_of_its_name() -> None:
    found = read(WINDOW_ROWS="7", LEASE_SECONDS="0.5", TRUSTED_PROXIES="2", HEARTBEAT_DIR="/run/towpath")

    assert found == replace(Config(), window_rows=7, lease_seconds=0.5, trusted_proxies=2, heartbeat_dir="/run/towpath")


def test_a_value_cannot_be_changed_but_another_one_can_be_made() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().window_rows = 7  # type: ignore[misc]
    with pytest.raises(TypeError):
        replace(Config(), windows_row=7)  # type: ignore[call-arg]


def test_no_secret_is_shown_where_the_value_is() -> None:
    """As on Django's page of an error, which shows the settings."""
    mark = "swordfish6f1d0c9a52b84e7fb3a7c1d2e9f80a46"
    config = read(
        EVENT_HASH_KEY=mark,
        RABBITMQ_URL=f"amqp://u:{mark}@h",
        EVENT_STORE_URL=f"clickhouse://u:{mark}@h:1/db",
        EVENT_STORE_VERIFIER_URL=f"clickhouse://v:{mark}@h:1/db",
        EVENT_STORE_EXPLORER_URL=f"clickhouse://x:{mark}@h:1/db",
    )

    assert mark in config.rabbitmq_url
    assert mark in config.event_store_verifier_url
    assert mark in config.event_store_explorer_url
    assert mark not in f"{config} {config!r}"
    assert "window_rows=1000" in repr(config)


@pytest.mark.parametrize(("store_timeout", "wedged"), [("5", 120), ("30", 120), ("31", 124), ("100", 400)])
def test_a_worker_is_called_wedged_long_after_the_store_s_time_limit(store_timeout: str, wedged: float) -> None:
    assert read(STORE_TIMEOUT_SECONDS=store_timeout).wedged_seconds == wedged


def test_the_alias_counts_where_the_name_is_not_set() -> None:
    alias, name = "clickhouse://a:1/db", "clickhouse://b:1/db"

    assert read(CLICKHOUSE_URL=alias).event_store_url == alias
    assert read(CLICKHOUSE_URL=alias, EVENT_STORE_URL=name).event_store_url == name


def test_verification_reads_where_the_pipeline_writes_unless_it_has_a_user_of_its_own() -> None:
    writer, verifier = "clickhouse://writer:a@h:1/db", "clickhouse://verifier:b@h:1/db"

    alone = read(EVENT_STORE_URL=writer)
    both = read(EVENT_STORE_URL=writer, EVENT_STORE_VERIFIER_URL=verifier)

    assert alone.verifier_store_url == writer
    assert alone.store_urls == {"EVENT_STORE_URL": writer}
    assert (both.event_store_url, both.verifier_store_url) == (writer, verifier)
    assert both.store_urls == {"EVENT_STORE_URL": writer, "EVENT_STORE_VERIFIER_URL": verifier}


def test_verification_gets_the_same_connection_unless_it_has_a_user_of_its_own() -> None:
    config = read(EVENT_STORE_URL="clickhouse://writer:a@127.0.0.1:1/db")
    store = event_store(config)

    assert verifier_store(config, store=store) is store
    assert verifier_store(replace(config, event_store_verifier_url=config.event_store_url), store=store) is store
    other = verifier_store(replace(config, event_store_verifier_url="clickhouse://v:b@127.0.0.1:1/db"), store=store)
    assert isinstance(other, type(store))
    assert other is not store


def test_the_explorer_searches_where_the_pipeline_writes_unless_it_has_a_user_of_its_own() -> None:
    reader, explorer = "clickhouse://reader:a@127.0.0.1:1/db", "postgresql://explorer:b@127.0.0.1:1/db"

    alone = read(EVENT_STORE_URL=reader)
    both = read(EVENT_STORE_URL=reader, EVENT_STORE_EXPLORER_URL=explorer)

    assert alone.explorer_store_url == reader
    assert type(explorer_store(alone)) is type(event_store(alone))
    assert both.explorer_store_url == explorer
    assert both.store_urls == {"EVENT_STORE_URL": reader, "EVENT_STORE_EXPLORER_URL": explorer}
    assert type(explorer_store(both)) is not type(event_store(both))


def test_a_url_of_the_explorer_that_names_no_store_is_named_by_its_own_setting() -> None:
    config = replace(Config(), event_store_explorer_url="ftp://v:swordfish@h/db")

    with pytest.raises(ImproperlyConfigured, match=r"^EVENT_STORE_EXPLORER_URL: 'ftp' is not") as raised:
        explorer_store(config)
    assert "swordfish" not in str(raised.value)


def test_a_url_of_the_verifier_that_names_no_store_is_named_by_its_own_setting() -> None:
    config = replace(Config(), event_store_verifier_url="ftp://v:swordfish@h/db")

    with pytest.raises(ImproperlyConfigured, match=r"^EVENT_STORE_VERIFIER_URL: 'ftp' is not") as raised:
        verifier_store(config, store=event_store(Config()))
    assert "swordfish" not in str(raised.value)


def test_everything_that_is_wrong_is_named_at_once_also_what_was_read_before() -> None:
    environment = Environment(
        {
            "HOST": "1",
            "RABBITMQ_URL": "amqp://h/?heartbeats=3",
            "EVENT_STORE_URL": "ftp://h/db",
            "EVENT_STORE_VERIFIER_URL": "clickhouse:///db",
            "EVENT_STORE_EXPLORER_URL": "clickhouse:///db",
            "WINDOW_BYTES": "1",
            "STORE_TIMEOUT_SECONDS": "60",
            "WEDGED_SECONDS": "60",
            "METRICS_PORT": "65536",
            "EVENT_HASH_KEY": "weak",
        }
    )
    environment.flag("HOST", default=False)
    environment.note("what the application has found")

    with pytest.raises(ImproperlyConfigured) as raised:
        Config.from_environment(environment)

    lines = str(raised.value).splitlines()[1:]
    assert sorted(line.split()[1].rstrip(":") for line in lines) == [
        "EVENT_HASH_KEY",
        "EVENT_STORE_EXPLORER_URL",
        "EVENT_STORE_URL",
        "EVENT_STORE_VERIFIER_URL",
        "METRICS_PORT",
        "RABBITMQ_URL",
        "WEDGED_SECONDS",
        "WINDOW_BYTES",
        "what",
    ]
    assert "WEDGED_SECONDS must be more than STORE_TIMEOUT_SECONDS: an insert may take that long" in str(raised.value)


def test_a_weak_key_is_taken_where_it_may_be_weak() -> None:
    environment = Environment({"EVENT_HASH_KEY": "weak"})

    assert Config.from_environment(environment, may_be_weak=True).event_hash_key == "weak"


def with_prefix(**variables: str) -> Config:
    return Config.from_environment(Environment(variables, prefix="TOWPATH_"))


def test_a_prefix_stands_before_every_name() -> None:
    others = {"WINDOW_ROWS": "many", "TRACING": "datadog", "DEBUG": "django:*", "ENVIRONMENT": "theirs"}

    assert with_prefix(**others, TOWPATH_WINDOW_ROWS="7", TOWPATH_CLICKHOUSE_URL="clickhouse://a:1/b") == replace(
        Config(), window_rows=7, event_store_url="clickhouse://a:1/b"
    )


def test_what_is_wrong_is_named_with_its_prefix(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        with_prefix(
            TOWPATH_WINDOW_ROWS="many",
            TOWPATH_RABBITMQ_URL="http://a",
            TOWPATH_EVENT_STORE_URL="clickhouse://a:b@c:d/e",
            TOWPATH_EVENT_STORE_VERIFIER_URL="clickhouse://v:swordfish@c:1/e?nonsense=1",
            TOWPATH_EVENT_HASH_KEY_FILE=str(tmp_path / "none"),
            TOWPATH_QUEUE_PREFIX="two words",
            TOWPATH_WEDGED_SECONDS="1",
        )

    assert "swordfish" not in str(raised.value)
    named = [line.partition("- ")[2].split(" ")[0].rstrip(":") for line in str(raised.value).splitlines()[1:]]
    assert sorted(named) == [
        "TOWPATH_EVENT_HASH_KEY_FILE",
        "TOWPATH_EVENT_STORE_URL",
        "TOWPATH_EVENT_STORE_VERIFIER_URL",
        "TOWPATH_QUEUE_PREFIX",
        "TOWPATH_RABBITMQ_URL",
        "TOWPATH_WEDGED_SECONDS",
        "TOWPATH_WINDOW_ROWS",
    ]


@pytest.mark.parametrize(
    ("prefix", "expected"), [("", "towpath.aggregate_backlog"), ("shop", "shop.towpath.aggregate_backlog")]
)
def test_queues_carry_the_products_name_and_the_projects_prefix(prefix: str, expected: str) -> None:
    assert read(QUEUE_PREFIX=prefix).queues.aggregate_backlog == expected


def test_a_project_that_imports_the_settings_gets_three_names_and_nothing_else_changes() -> None:
    code = """
import os, sys
before = dict(os.environ)
names = {}
exec("from towpath.conf.settings import *", names)
from django.db import models
import structlog
print(sorted(name for name in names if name != "__builtins__"))
print(dict(os.environ) == before, hasattr(models.Field, "__class_getitem__"), structlog.is_configured())
"""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=kept, capture_output=True, text=True, check=False
    )

    assert done.stdout.splitlines() == [
        "['DRAMATIQ_AUTODISCOVER_MODULES', 'DRAMATIQ_BROKER', 'TOWPATH']",
        "True False False",
    ], done.stderr


def test_a_seal_key_that_is_not_one_is_answered_by_how_to_make_one() -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        read(SEAL_KEY="swordfish")

    assert "openssl genpkey -algorithm ed25519" in str(raised.value)
    assert "too easy to guess" not in str(raised.value)
    assert "swordfish" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("rabbitmq_url", None, "RABBITMQ_URL is of the type NoneType: it must be a text"),
        ("event_hash_key", b"swordfish", "EVENT_HASH_KEY is of the type bytes: it must be a text"),
        ("environment", None, "ENVIRONMENT is None: it must be a text"),
        ("window_rows", "7", "WINDOW_ROWS is '7': it must be a whole number, 1 or more"),
        ("window_rows", 0, "WINDOW_ROWS is 0: it must be a whole number, 1 or more"),
        ("window_rows", 1.5, "WINDOW_ROWS is 1.5: it must be a whole number, 1 or more"),
        ("window_rows", True, "WINDOW_ROWS is True: it must be a whole number, 1 or more"),
        ("event_context_max_bytes", None, "EVENT_CONTEXT_MAX_BYTES is None: it must be a whole number, 1 or more"),
        ("metrics_port", 65536, "METRICS_PORT is 65536: it must be a whole number, 0 to 65535"),
        ("lease_seconds", "10", "LEASE_SECONDS is '10': it must be a number of seconds, 0.1 or more"),
        ("lease_seconds", float("nan"), "LEASE_SECONDS is nan: it must be a number of seconds, 0.1 or more"),
        ("lease_seconds", float("inf"), "LEASE_SECONDS is inf: it must be a number of seconds, 0.1 or more"),
        ("tracing", "false", "TRACING is 'false': it must be True or False"),
    ],
)
def test_a_value_that_is_set_in_code_is_judged_as_one_of_the_environment(
    name: str, value: object, problem: str, knobs: Knobs
) -> None:
    knobs(**{name: value})

    (error,) = [one for one in [*check_settings(), *check_outboxes()] if one.id in {"pipeline.E020", "outbox.E031"}]

    assert error.msg == problem


@pytest.mark.parametrize("value", [1, 10, 10.5])
def test_a_whole_number_of_seconds_is_a_number_of_seconds(value: float) -> None:
    assert [*replace(Config(), lease_seconds=value).problems()] == []
