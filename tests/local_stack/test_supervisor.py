"""The supervisor with stand-in programs: crashes, its own death, and the start after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from deploy.local.errors import AlreadyRunningError, StartError
from deploy.local.process import PROJECT, Process, Program
from deploy.local.supervisor import Event, Supervisor
from tests.local_stack.alive import is_alive
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timing

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
#: A parent whose child has left its session and ignores polite requests, as a forgotten worker may.
PARENT = (
    "import subprocess, sys, time\n"
    "ignore = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(0, flush=True); '\n"
    "code = ignore + 'time.sleep(600)'\n"
    "child = subprocess.Popen([sys.executable, '-c', code], start_new_session=True, stdout=subprocess.PIPE)\n"
    "child.stdout.readline()\n"
    "print('child', child.pid, flush=True)\n"
    "time.sleep(600)\n"
)
#: A supervisor as a process of its own, to be killed.
SUPERVISOR = """
import sys, time
from pathlib import Path
from deploy.local.supervisor import Supervisor
from tests.local_stack.test_supervisor import PARENT, SLEEPER, program
folder = Path(sys.argv[1])
with Supervisor(folder) as supervisor:
    supervisor.start(program(folder, "sleeper", SLEEPER), program(folder, "parent", PARENT, ready_text="child"))
    print(supervisor.pid("sleeper"), supervisor.pid("parent"), flush=True)
    time.sleep(600)
"""


def program(folder: Path, name: str, code: str, *, ready_text: str = "up", start_seconds: float = 10) -> Process:
    return Process(
        Program(
            name=name,
            argv=(sys.executable, "-c", code),
            log=folder / f"{name}.log",
            ready_text=ready_text,
            start_seconds=start_seconds,
        )
    )


class Events:
    """Collects what a supervisor reports."""

    def __init__(self) -> None:
        self._seen: list[Event] = []
        self._guard = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._guard:
            self._seen.append(event)

    def of(self, name: str) -> list[str]:
        with self._guard:
            return [event.kind for event in self._seen if event.name == name]

    def pauses(self) -> list[float]:
        with self._guard:
            return [event.seconds for event in self._seen if event.kind == "crashed"]


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def killed_supervisor(tmp_path: Path) -> Iterator[tuple[Path, list[int], int]]:
    """A supervisor that was killed with -9: its folder, the processes it had started, and a grandchild."""
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        children = [int(word) for word in supervisor.stdout.readline().split()]
        grandchild = int((tmp_path / "parent.log").read_text().split()[-1])
        assert all(map(is_alive, [*children, grandchild]))
        supervisor.kill()
    yield tmp_path, children, grandchild
    if is_alive(grandchild):
        os.kill(grandchild, signal.SIGKILL)


def test_a_crashed_process_comes_back_after_a_pause_that_doubles(tmp_path: Path, events: Events) -> None:
    with Supervisor(tmp_path, on_event=events) as supervisor:
        supervisor.start(program(tmp_path, "sleeper", SLEEPER))
        first = supervisor.pid("sleeper")

        for crashes in (1, 2):
            supervisor.kill("sleeper")
            eventually(lambda: events.of("sleeper").count("ready") == crashes + 1, seconds=10)

        assert supervisor.pid("sleeper") not in {None, first}
    assert events.of("sleeper") == [
        "started",
        "ready",
        "crashed",
        "restarting",
        "started",
        "ready",
        "crashed",
        "restarting",
        "started",
        "ready",
        "stopped",
    ]
    assert events.pauses() == [0.5, 1.0]


def test_a_process_that_was_taken_down_stays_down_until_brought_up(tmp_path: Path, events: Events) -> None:
    with Supervisor(tmp_path, on_event=events) as supervisor:
        supervisor.start(program(tmp_path, "sleeper", SLEEPER), program(tmp_path, "other", SLEEPER))

        supervisor.take_down("sleeper")
        supervisor.kill("other")
        eventually(lambda: events.of("other").count("ready") == 2, seconds=10)
        assert supervisor.pid("sleeper") is None

        supervisor.bring_up("sleeper")
        assert supervisor.pid("sleeper") is not None
    assert "crashed" not in events.of("sleeper")


def test_a_program_that_ends_at_its_start_is_an_error_with_its_log(tmp_path: Path) -> None:
    dying = program(tmp_path, "dying", "raise SystemExit('no such setting: FOO')")
    sleeper = program(tmp_path, "sleeper", SLEEPER)

    with pytest.raises(StartError, match="no such setting: FOO"), Supervisor(tmp_path) as supervisor:
        supervisor.start(sleeper, dying)

    assert not sleeper.is_running


def test_a_program_that_is_never_ready_is_an_error(tmp_path: Path) -> None:
    silent = program(tmp_path, "silent", SLEEPER, ready_text="never said", start_seconds=0.3)

    with pytest.raises(StartError, match=r"not ready after 0\.3 s"), Supervisor(tmp_path) as supervisor:
        supervisor.start(silent)

    assert not silent.is_running


def test_processes_end_in_reverse_order(tmp_path: Path) -> None:
    stopped: list[str] = []

    def note(event: Event) -> None:
        if event.kind == "stopped":
            stopped.append(event.name)

    with Supervisor(tmp_path, on_event=note) as supervisor:
        for name in ("first", "second", "third"):
            supervisor.start(program(tmp_path, name, SLEEPER))

    assert stopped == ["third", "second", "first"]


def test_a_second_supervisor_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with (
        Supervisor(tmp_path),
        pytest.raises(AlreadyRunningError, match=f"process {os.getpid()}") as refused,
        Supervisor(tmp_path),
    ):
        pass
    assert f"its URLs are in {tmp_path}/stack.env" in str(refused.value)
    assert f"`kill {os.getpid()}`" in str(refused.value)
    assert f"`make run FOLDER={tmp_path}-2`" in str(refused.value)


def test_kill_reaches_a_grandchild_in_another_session(tmp_path: Path) -> None:
    parent = program(tmp_path, "parent", PARENT, ready_text="child")
    parent.start()
    parent.wait_until_ready()
    grandchild = int((tmp_path / "parent.log").read_text().split()[-1])

    parent.kill()

    eventually(lambda: not is_alive(grandchild), seconds=10)


def test_children_die_with_a_supervisor_that_is_killed(killed_supervisor: tuple[Path, list[int], int]) -> None:
    _, children, _ = killed_supervisor

    eventually(lambda: not any(map(is_alive, children)), seconds=10)


def test_children_outlive_the_thread_that_started_them(tmp_path: Path) -> None:
    """The kernel's parent-death signal is sent when the forking *thread* ends."""
    sleeper = program(tmp_path, "sleeper", SLEEPER)
    starter = threading.Thread(target=sleeper.start)
    starter.start()
    starter.join()

    sleeper.wait_until_ready()

    assert sleeper.is_running
    sleeper.kill()


def test_the_next_start_ends_what_a_killed_supervisor_left(
    killed_supervisor: tuple[Path, list[int], int], events: Events
) -> None:
    folder, children, grandchild = killed_supervisor
    eventually(lambda: not any(map(is_alive, children)), seconds=10)
    assert is_alive(grandchild)

    with Supervisor(folder, on_event=events) as supervisor:
        assert not is_alive(grandchild)
        # By the name of the program, not by that of what it runs ("python3.11").
        assert events.of("parent") == ["repaired"]
        supervisor.start(program(folder, "sleeper", SLEEPER))
        assert supervisor.pid("sleeper") is not None


def test_the_next_start_leaves_a_stranger_with_a_recycled_pid_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.DEVNULL) as stranger:
        state = f'[{{"name": "web", "pid": {stranger.pid}, "started": 1000000000.0, "token": "nobody has this"}}]'
        (tmp_path / "supervisor.json").write_text(state)

        with Supervisor(tmp_path):
            assert stranger.poll() is None

        stranger.kill()
