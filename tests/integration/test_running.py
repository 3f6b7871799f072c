"""`pipeline run`: each role's program in the place of manage.py, and all of them for development."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from deploy.local.process import PROJECT
from tests.benchmarks.traffic import publish_users
from tests.integration.event_log import EventLog
from tests.integration.invariants import assert_delivered_within
from tests.integration.manage import manage
from tests.waiting import eventually
from towpath.conf.launch import ROLES, program
from towpath.conf.names import QueueNames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.timing


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start `manage.py pipeline run`, in another folder than the project's."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(PROJECT / "manage.py"), "pipeline", "run", *arguments]
        with (tmp_path / "log").open("ab") as log:
            started.append(subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for child in family:
            child.kill()
        process.kill()
        process.wait()


def _program_of(pid: int) -> str:
    return " ".join(psutil.Process(pid).cmdline())


@pytest.mark.parametrize("role", ROLES)
def test_a_role_replaces_manage_py_by_its_program(
    role: str, run: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    arguments = () if role == "scheduler" else ("--processes=2",)

    process = run(role, *arguments)

    eventually(lambda: "towpath.conf.launch" in _program_of(process.pid), seconds=30)
    assert _program_of(process.pid).endswith(" ".join([*program(role, QueueNames.of("")), *arguments]))
    if role != "scheduler":
        eventually(lambda: (tmp_path / "log").read_text().count("ready for action") == 2, seconds=60)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)


def test_all_is_one_of_each_until_it_is_told_to_stop(
    run: Callable[..., subprocess.Popen[bytes]], event_log: EventLog
) -> None:
    process = run("all")
    publish_users(3)

    assert_delivered_within(event_log, committed=3, seconds=60)
    children = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=60) == 0
    assert len(children) == len(ROLES)
    assert not any(child.is_running() for child in children)


def test_all_ends_with_the_first_that_ends(run: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> None:
    process = run("all")
    eventually(lambda: len(psutil.Process(process.pid).children()) == len(ROLES), seconds=30)
    (scheduler,) = (child for child in psutil.Process(process.pid).children() if "periodiq" in child.cmdline())

    scheduler.kill()

    assert process.wait(timeout=60) == 1
    assert "The scheduler ended with exit code" in (tmp_path / "log").read_text()


def test_what_is_no_role_is_named() -> None:
    unknown = manage("pipeline", "run", "consumer")
    too_much = manage("pipeline", "run", "all", "--processes=2")

    assert (unknown.returncode, too_much.returncode) == (2, 2)
    assert "consumer" in unknown.stderr
    assert "takes no arguments" in too_much.stderr
