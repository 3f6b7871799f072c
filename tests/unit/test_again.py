"""The second run of what failed: it counts for tests that time real processes, and for no others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.process import PROJECT

#: A suite of somebody's, whose tests fail as often as asked for.
_SUITE = """
import pathlib
import pytest

def fail(name, *, times):
    runs = pathlib.Path(name)
    runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
    assert len(runs.read_text()) > times

def test_that_passes():
    fail("passes", times=0)
"""
_TIMED = """
@pytest.mark.timing
def test_that_times_processes():
    fail("timed", times={times})
"""
_OTHER = """
def test_of_logic():
    fail("logic", times={times})
"""
_BREAKS_OFF = """
def test_without_services():
    pytest.exit("the services do not start", returncode=pytest.ExitCode.INTERRUPTED)
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    exit_code: int
    printed: str
    #: None without the file.
    flaky: list[str] | None


def run_suite(folder: Path, *tests: str, options: Sequence[str] = ()) -> Outcome:
    (folder / "test_suite.py").write_text(_SUITE + "".join(tests))
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n timing\n slow\naddopts = --strict-markers -m 'not slow'")
    done = subprocess.run(
        [sys.executable, "-m", "tests.again", "-q", *options],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    flaky = folder / "flaky.txt"
    return Outcome(
        done.returncode, done.stdout + done.stderr, flaky.read_text().splitlines() if flaky.exists() else None
    )


def runs_of(folder: Path, name: str) -> int:
    return len((folder / name).read_text())


def test_what_passes_runs_once(tmp_path: Path) -> None:
    (tmp_path / "flaky.txt").write_text("of the run before\n")

    outcome = run_suite(tmp_path)

    assert (outcome.exit_code, outcome.flaky) == (0, None), outcome.printed
    assert runs_of(tmp_path, "passes") == 1


def test_a_test_that_times_processes_may_need_a_second_run_and_is_named(tmp_path: Path) -> None:
    outcome = run_suite(tmp_path, _TIMED.format(times=1))

    line = "test_suite.py::test_that_times_processes  (times real processes)"
    assert (outcome.exit_code, outcome.flaky) == (0, [line]), outcome.printed
    assert line in outcome.printed
    assert (runs_of(tmp_path, "passes"), runs_of(tmp_path, "timed")) == (1, 2)


def test_any_other_test_that_needs_one_fails_the_run_and_is_named(tmp_path: Path) -> None:
    outcome = run_suite(tmp_path, _TIMED.format(times=1), _OTHER.format(times=1))

    assert outcome.exit_code == 1
    assert outcome.flaky == [
        "test_suite.py::test_of_logic  (NOT marked `timing`)",
        "test_suite.py::test_that_times_processes  (times real processes)",
    ]


def test_a_run_of_marked_tests_adds_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "flaky.txt").write_text("of the run before\n")

    outcome = run_suite(tmp_path, "\n@pytest.mark.slow", _TIMED.format(times=1), options=["-m", "slow"])

    line = "test_suite.py::test_that_times_processes  (times real processes)"
    assert (outcome.exit_code, outcome.flaky) == (0, ["of the run before", line]), outcome.printed


@pytest.mark.parametrize("test", [_TIMED, _OTHER], ids=["timed", "other"])
def test_what_fails_twice_fails_the_run(tmp_path: Path, test: str) -> None:
    outcome = run_suite(tmp_path, test.format(times=2))

    assert (outcome.exit_code, outcome.flaky) == (1, None), outcome.printed


def test_a_run_that_was_broken_off_has_no_second_one(tmp_path: Path) -> None:
    """What had not run yet would not run at all."""
    outcome = run_suite(tmp_path, _OTHER.format(times=1), _BREAKS_OFF)

    assert (outcome.exit_code, outcome.flaky) == (pytest.ExitCode.INTERRUPTED, None), outcome.printed
    assert runs_of(tmp_path, "logic") == 1
