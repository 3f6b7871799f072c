"""Reading the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from backend.config.database import database_settings
from deploy.local.process import PROJECT
from tests.forked import run_python
from towpath.conf.environment import Environment


def environment(variables: dict[str, str], folder: Path, file: str = "") -> Environment:
    (folder / "stack.env").write_text(file)
    return Environment(variables, fallback_file=folder / "stack.env")


def test_unset_and_empty_variables_have_their_defaults(tmp_path: Path) -> None:
    env = environment({"ROWS": "", "TEXT": ""}, tmp_path)

    assert env.text("TEXT", "default") == "default"
    assert env.whole_number("ROWS", 1000) == 1000
    assert env.seconds("PAUSE", 0.5) == 0.5
    assert env.flag("DEBUG", default=False) is False
    assert env.names("HOSTS", ["a"]) == ["a"]
    env.check()


def test_values_are_read_as_what_they_are(tmp_path: Path) -> None:
    given = {"ROWS": " 7 ", "PAUSE": "0.25", "DEBUG": "Yes", "HOSTS": " a, b ,,", "LEVEL": " high", "PORT": "65535"}
    env = environment(given, tmp_path)

    assert env.whole_number("ROWS", 1) == 7
    assert env.seconds("PAUSE", 1.0) == 0.25
    assert env.flag("DEBUG", default=False) is True
    assert env.names("HOSTS", []) == ["a", "b"]
    assert env.choice("LEVEL", "LOW", choices=("LOW", "HIGH")) == "HIGH"
    assert env.whole_number("PORT", 0, maximum=65535) == 65535
    env.check()


def test_a_variable_comes_before_the_file_of_the_running_stack(tmp_path: Path) -> None:
    env = environment({"A": "mine"}, tmp_path, "# comment\nA=theirs\nB=also=theirs\n\n")

    assert (env.text("A", ""), env.text("B", "")) == ("mine", "also=theirs")


def test_a_missing_file_is_no_file(tmp_path: Path) -> None:
    assert Environment({}, fallback_file=tmp_path / "none").text("A", "default") == "default"


def test_all_bad_values_are_reported_at_once_with_their_names(tmp_path: Path) -> None:
    bad = {
        "ROWS": "many",
        "BYTES": "0",
        "PAUSE": "nan",
        "WAIT": "-1",
        "DEBUG": "perhaps",
        "PORT": "65536",
        "LEVEL": "loud",
    }
    env = environment(bad, tmp_path)
    env.whole_number("ROWS", 1)
    env.whole_number("BYTES", 1)
    env.seconds("PAUSE", 1)
    env.seconds("WAIT", 1)
    env.flag("DEBUG", default=False)
    env.whole_number("PORT", 0, minimum=0, maximum=65535)
    env.choice("LEVEL", "LOW", choices=("LOW", "HIGH"))
    env.key("SECRET_KEY", default=None, may_be_weak=False)

    with pytest.raises(ImproperlyConfigured) as raised:
        env.check()

    lines = str(raised.value).splitlines()[1:]
    assert [line.split()[1] for line in lines] == [*bad, "SECRET_KEY"]
    assert "must be a whole number, 1 or more" in lines[0]
    assert "must be a whole number, from 0 to 65535" in lines[5]
    assert "must be one of LOW, HIGH" in lines[6]


@pytest.mark.parametrize("url", ["mysql://root@127.0.0.1/towpath", "sqlite:///x", "towpath", "postgresql://a:b/c@d"])
def test_a_database_that_is_not_postgresql_is_refused(url: str, tmp_path: Path) -> None:
    env = environment({"DATABASE_URL": url}, tmp_path)

    assert env.url("DATABASE_URL", "postgresql://here/db", schemes=("postgresql",)) == "postgresql://here/db"
    with pytest.raises(ImproperlyConfigured, match="DATABASE_URL"):
        env.check()


def test_what_a_database_url_says_is_kept() -> None:
    settings = database_settings("postgresql://me:p%40ss@host:5433/db?sslmode=verify-full&connect_timeout=9")

    assert (settings["USER"], settings["PASSWORD"], settings["HOST"], settings["PORT"]) == ("me", "p@ss", "host", 5433)
    assert settings["OPTIONS"] == {"sslmode": "verify-full", "connect_timeout": 9}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "is not set"),
        ("only-for-tests", "is too easy to guess"),
        ("x" * 60, "is too easy to guess"),
        ("django-insecure-" + "abcdefghij" * 4, "is too easy to guess"),
    ],
)
def test_a_key_that_is_missing_or_weak_is_refused_and_not_shown(value: str, problem: str, tmp_path: Path) -> None:
    env = environment({"KEY": value}, tmp_path)

    env.key("KEY", default=None, may_be_weak=False)

    with pytest.raises(ImproperlyConfigured, match=f"KEY {problem}") as raised:
        env.check()
    assert not value or value not in str(raised.value)


def test_a_default_is_taken_for_a_key_and_a_weak_one_where_that_is_allowed(tmp_path: Path) -> None:
    env = environment({"WEAK": "x"}, tmp_path)

    assert env.key("KEY", default="the default", may_be_weak=False) == "the default"
    assert env.key("WEAK", default=None, may_be_weak=True) == "x"
    env.check()


# --- Secrets from files ------------------------------------------------------------------------------------------


def test_a_secret_s_file_comes_before_the_file_of_the_running_stack(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(" mine\n")
    env = environment({"URL_FILE": str(tmp_path / "url")}, tmp_path, "URL=theirs\n")

    assert env.secret("URL", "default") == "mine"
    env.check()


@pytest.mark.parametrize(
    ("content", "also_set", "problem"),
    [
        (None, {}, "KEY_FILE: cannot read"),
        (b"", {}, "KEY_FILE: "),
        (b" \n", {}, "is empty"),
        (b"\xff\xfe", {}, "it is not a text"),
        (b"secret", {"KEY": "secret"}, "KEY and KEY_FILE are both set"),
    ],
)
def test_a_secret_s_file_that_is_of_no_use_is_named(
    content: bytes | None, also_set: dict[str, str], problem: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    env = environment({"KEY_FILE": str(tmp_path / "key"), **also_set}, tmp_path)

    env.key("KEY", default=None, may_be_weak=True)

    with pytest.raises(ImproperlyConfigured, match=problem) as raised:
        env.check()
    assert len(str(raised.value).splitlines()) == 2


def test_the_settings_report_every_bad_variable_at_once() -> None:
    bad = {
        "DATABASE_URL": "mysql://root@127.0.0.1/towpath",
        "EVENT_STORE_URL": "mysql://root@127.0.0.1/towpath",
        "WINDOW_ROWS": "0",
        "LEASE_SECONDS": "soon",
        "SECRET_KEY": "weak",
        "LOG_LEVEL": "loud",
        "METRICS_PORT": "99999",
        "TRUSTED_PROXIES": "-1",
    }

    done = run_python("manage.py", "check", cwd=PROJECT, env={**os.environ, **bad})

    assert done.returncode == 1
    assert [name for name in bad if f"- {name}" not in done.stderr] == []
    assert "Traceback" not in done.stderr


def test_a_port_that_kubernetes_has_set_for_a_service_says_where_it_comes_from() -> None:
    env = Environment({"METRICS_PORT": "tcp://10.96.0.7:9100"}, fallback_file=Path("/none"))
    env.whole_number("METRICS_PORT", 0)

    with pytest.raises(ImproperlyConfigured, match=r"METRICS_PORT.*enableServiceLinks: false"):
        env.check()


def test_white_space_around_a_value_is_not_a_part_of_it(tmp_path: Path) -> None:
    env = environment({"NAME": " production\r\n", "BLANK": " ", "URL": "amqp://h/v\n"}, tmp_path)

    assert env.text("NAME", "") == "production"
    assert env.text("BLANK", "default") == "default"
    assert env.url("URL", "") == "amqp://h/v"
    env.check()


@pytest.mark.parametrize("read", ["text", "secret", "url"])
def test_bytes_that_are_not_text_are_refused_by_name(read: str, tmp_path: Path) -> None:
    """Python shows such bytes of a variable as lone surrogates. They would stop every window that has them."""
    env = environment({"NAME": "amqp://h/\udcff"}, tmp_path)

    assert getattr(env, read)("NAME", "amqp://h") == "amqp://h"
    with pytest.raises(ImproperlyConfigured, match="NAME is not text in UTF-8"):
        env.check()
