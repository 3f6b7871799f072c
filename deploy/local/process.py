"""One child process of the local stack, from its start to its end.

Invariant: a child ends with its parent, however the parent ends: the kernel sends it the parent-death signal, set by
`setpriv` after any change of user because such a change clears it. `kill` leaves no grandchild behind either.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import psutil

from deploy.local.errors import PackageMissingError, StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Pause between two looks at a starting or stopping process: shorter burns CPU, longer adds to every start.
POLL_SECONDS = 0.05

#: The folder a process was started from must be the project's, so that `python -m` and manage.py are found.
PROJECT = Path(__file__).resolve().parents[2]

#: Every descendant of a child inherits this variable with the child's token, whatever session or parent it has later.
TOKEN_VARIABLE = "TOWPATH_PROCESS_TOKEN"  # noqa: S105 - the name of a variable, and no secret

# The parent-death signal fires when the *thread* that forked ends, not only the process. So all children are forked
# by one thread that lives as long as the interpreter, no matter who asks for them.
_forking_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forking")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run, and how to tell that it is ready and make it stop."""

    name: str
    argv: tuple[str, ...]
    log: Path
    is_ready: Callable[[], bool] = lambda: True
    #: The program is not ready before its log has this text, written since the start.
    ready_text: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = PROJECT
    #: Options of setpriv besides the parent-death signal (a change of user).
    privileges: tuple[str, ...] = ()
    start_seconds: float = 60.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 20.0
    #: Sent by the kernel when the parent dies. A program with workers needs the one it passes on to them.
    death_signal: signal.Signals = signal.SIGKILL


class Process:
    """A program as a supervised child: start, wait until ready, stop, kill, restart."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.token = ""
        self._popen: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def pid(self) -> int | None:
        """The process id, also the id of its session and group; None before the first start."""
        return self._popen.pid if self._popen else None

    @property
    def is_running(self) -> bool:
        """True if the child was started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How the last run ended (negative: by that signal), None while it runs."""
        return self._popen.poll() if self._popen else None

    def start(self) -> None:
        """Start the child unless it runs; does not wait until it is ready."""
        if not self.is_running:
            self.token = uuid.uuid4().hex
            self._popen = _forking_thread.submit(self._spawn).result()

    def wait_until_ready(self) -> None:
        """Return when the program answers; raise StartError when it ended or its time is over."""
        deadline = time.monotonic() + self.program.start_seconds
        while not self.check_ready():
            if time.monotonic() > deadline:
                reason = f"{self.name} was not ready after {self.program.start_seconds:g} s"
                raise StartError(reason, log=self.program.log)
            time.sleep(POLL_SECONDS)

    def check_ready(self) -> bool:
        """True if the program answers now; raises StartError when it has ended."""
        if not self.is_running:
            raise StartError(f"{self.name} ended with exit code {self.exit_code}", log=self.program.log)
        return self._has_logged(self.program.ready_text) and self.program.is_ready()

    def wait_until_done(self) -> None:
        """Return when a one-shot program has succeeded; raise StartError when it has not."""
        if self._popen is not None and self._popen.wait(self.program.start_seconds):
            raise StartError(f"{self.name} ended with exit code {self.exit_code}", log=self.program.log)

    def stop(self) -> None:
        """Ask the child to end, kill it when it takes too long, and leave no grandchild behind."""
        self.request_stop()
        self.wait_until_stopped()

    def request_stop(self) -> None:
        """Send the stop signal; does not wait."""
        if self._popen is not None and self.is_running:
            self._popen.send_signal(self.program.stop_signal)

    def wait_until_stopped(self) -> None:
        """Wait for the end of a child that was asked to stop; kill it when its time is over."""
        if self._popen is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(self.program.stop_seconds)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the child and all its descendants; returns when the child is gone."""
        if self._popen is None:
            return
        # Some descendants leave the group (PostgreSQL's backends, Erlang's ports): list them while they can be found.
        descendants = _descendants(self._popen.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        for descendant in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                descendant.kill()
        self._popen.wait()

    def restart(self) -> None:
        """Stop, start and wait until ready."""
        self.stop()
        self.start()
        self.wait_until_ready()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with open_log(self.program.log) as log:
            self._log_start = log.tell()
            return subprocess.Popen(
                [*setpriv(self.program), *self.program.argv],
                cwd=self.program.folder,
                env={**os.environ, **self.program.environment, TOKEN_VARIABLE: self.token},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Stores and logs have other people's data in them.
                umask=0o077,
            )

    def _has_logged(self, text: str) -> bool:
        if not text:
            return True
        with self.program.log.open("rb") as log:
            log.seek(self._log_start)
            return text.encode() in log.read()


def open_log(file: Path) -> BinaryIO:
    """The log, to be appended to; only its owner reads it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def setpriv(program: Program) -> list[str]:
    """The command that sets the parent-death signal and then becomes the program (same process id)."""
    return [
        required_command("setpriv", package="util-linux"),
        f"--pdeathsig={program.death_signal.name.removeprefix('SIG')}",
        *program.privileges,
        "--",
    ]


def required_command(name: str, *, package: str) -> str:
    """The path of a command of the operating system; raises PackageMissingError with what to type."""
    path = shutil.which(name)
    if path is None:
        raise PackageMissingError(f"{name} is not installed. Run: apt-get install {package}")
    return path
