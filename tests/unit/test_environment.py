"""Reading the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from django.core.exceptions import ImproperlyConfigured

from backend.config.environment import Environment, database_settings
from deploy.local.process import PROJECT

if TYPE_CHECKING:
    from pathlib import Path


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
    env = environment({"ROWS": " 7 ", "PAUSE": "0.25", "DEBUG": "Yes", "HOSTS": " a, b ,,"}, tmp_path)

    assert env.whole_number("ROWS", 1) == 7
    assert env.seconds("PAUSE", 1.0) == 0.25
    assert env.flag("DEBUG", default=False) is True
    assert env.names("HOSTS", []) == ["a", "b"]


def test_a_variable_comes_before_the_file_of_the_running_stack(tmp_path: Path) -> None:
    env = environment({"A": "mine"}, tmp_path, "# comment\nA=theirs\nB=also=theirs\n\n")

    assert (env.text("A", ""), env.text("B", "")) == ("mine", "also=theirs")


def test_a_missing_file_is_no_file(tmp_path: Path) -> None:
    assert Environment({}, fallback_file=tmp_path / "none").text("A", "default") == "default"


def test_all_bad_values_are_reported_at_once_with_their_names(tmp_path: Path) -> None:
    env = environment({"ROWS": "many", "BYTES": "0", "PAUSE": "nan", "WAIT": "-1", "DEBUG": "perhaps"}, tmp_path)
    env.whole_number("ROWS", 1)
    env.whole_number("BYTES", 1)
    env.seconds("PAUSE", 1)
    env.seconds("WAIT", 1)
    env.flag("DEBUG", default=False)
    env.secret("SECRET_KEY", default=None)

    with pytest.raises(ImproperlyConfigured) as raised:
        env.check()

    lines = str(raised.value).splitlines()[1:]
    assert [line.split()[1] for line in lines] == ["ROWS", "BYTES", "PAUSE", "WAIT", "DEBUG", "SECRET_KEY"]
    assert "must be a whole number, 1 or more" in lines[0]


@pytest.mark.filterwarnings("ignore:Engine not recognized")
@pytest.mark.parametrize("url", ["mysql://root@127.0.0.1/towpath", "sqlite:///x", "", "towpath"])
def test_a_database_that_is_not_postgresql_is_refused(url: str) -> None:
    with pytest.raises((ImproperlyConfigured, ValueError)):
        database_settings(url)


def test_the_settings_report_every_bad_variable_at_once() -> None:
    bad = {
        "DATABASE_URL": "mysql://root@127.0.0.1/towpath",
        "EVENT_STORE_URL": "mysql://root@127.0.0.1/towpath",
        "WINDOW_ROWS": "0",
        "LEASE_SECONDS": "soon",
        "SECRET_KEY": "x",
    }

    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        env={**os.environ, **bad},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert all(name in done.stderr for name in ("DATABASE_URL", "EVENT_STORE_URL", "WINDOW_ROWS", "LEASE_SECONDS"))
