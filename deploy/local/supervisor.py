"""Keeps processes running: started in order, restarted after a crash, ended in reverse order.

Invariants: at most one supervisor per folder (a file lock, which the kernel gives back however the holder ends); what
a dead supervisor left running is ended before anything is started.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from deploy.local.credentials import private_folder
from deploy.local.errors import AlreadyRunningError, LocalStackError, StartError
from deploy.local.leftovers import end_leftovers, write_down
from deploy.local.process import POLL_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deploy.local.process import Process

#: Pause before a crashed process is started again. It doubles with each crash up to the limit, and is the first one
#: again after a process has been up for the last span.
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
SETTLED_SECONDS = 60.0

EventKind = Literal["repaired", "started", "ready", "crashed", "restarting", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a process; `seconds` since its start, or until its next start when it crashed."""

    kind: EventKind
    name: str
    seconds: float = 0.0
    detail: str = ""


@dataclass(slots=True)
class _Watched:
    process: Process
    started_at: float = 0.0
    pause_seconds: float = FIRST_PAUSE_SECONDS
    restart_at: float | None = None
    is_ready: bool = False
    is_down_on_purpose: bool = False


class Supervisor:
    """Watches processes from `start` until `stop`; a context manager that holds the folder."""

    def __init__(self, folder: Path, *, on_event: Callable[[Event], None] = lambda _event: None) -> None:
        self._folder = folder
        self._on_event = on_event
        self._state = folder / "supervisor.json"
        self._groups: list[list[_Watched]] = []
        self._guard = threading.RLock()
        self._is_stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        private_folder(self._folder)
        self._lock = (self._folder / "supervisor.lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise AlreadyRunningError(
                f"A stack already runs in {self._folder} (process {self._holder()}).\n"
                f"  Use it: its URLs are in {self._folder / 'stack.env'}.\n"
                f"  Stop it: Ctrl-C where it runs, or `kill {self._holder()}`.\n"
                f"  Run a second one beside it: `make run FOLDER={self._folder}-2`."
            ) from None
        self._write_holder()
        for name in end_leftovers(self._state):
            self._on_event(Event(kind="repaired", name=name, detail="left by a run that did not end properly"))
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *processes: Process) -> None:
        """Start these together, wait until all are ready, and keep them running from then on."""
        group = [_Watched(process) for process in processes]
        with self._guard:
            # Before the first of them starts, so that a failure in the middle is cleaned up as well.
            self._groups.append(group)
            for watched in group:
                watched.is_down_on_purpose = True
                self._launch(watched)
        pending = list(group)
        while pending:
            for watched in list(pending):
                if self._is_ready_in_time(watched):
                    pending.remove(watched)
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """End everything in reverse order; when interrupted, kill what is left immediately."""
        self._is_stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()
        try:
            while self._groups:
                self._stop_group(self._groups[-1])
                self._groups.pop()
        except BaseException:
            for group in self._groups:
                for watched in group:
                    watched.process.kill()
            raise
        finally:
            self._state.unlink(missing_ok=True)
            self._lock.close()

    def kill(self, name: str) -> None:
        """SIGKILL a process and its descendants; it is restarted like after any crash."""
        self._find(name).process.kill()

    def take_down(self, name: str) -> None:
        """Stop a process and keep it down until `bring_up`."""
        watched = self._find(name)
        with self._guard:
            watched.is_down_on_purpose = True
            watched.restart_at = None
        watched.process.stop()
        self._report("stopped", watched)

    def bring_up(self, name: str) -> None:
        """Start a process that was taken down, wait until it is ready."""
        watched = self._find(name)
        with self._guard:
            self._launch(watched)
        while not self._is_ready_in_time(watched):
            time.sleep(POLL_SECONDS)

    def pid(self, name: str) -> int | None:
        """The process id of a running process, None while it is down."""
        process = self._find(name).process
        return process.pid if process.is_running else None

    @property
    def names(self) -> list[str]:
        return [watched.process.name for group in self._groups for watched in group]

    def _find(self, name: str) -> _Watched:
        for group in self._groups:
            for watched in group:
                if watched.process.name == name:
                    return watched
        raise LocalStackError(f"No process is called {name}. The processes are: {', '.join(self.names)}")

    def _launch(self, watched: _Watched) -> None:
        watched.started_at = time.monotonic()
        watched.is_ready = False
        watched.restart_at = None
        watched.process.start()
        write_down(self._state, (each.process for group in self._groups for each in group))
        self._report("started", watched)

    def _is_ready_in_time(self, watched: _Watched) -> bool:
        """True if a process that was started by hand is ready; from then on crashes are repaired."""
        if watched.process.check_ready():
            watched.is_ready = True
            watched.is_down_on_purpose = False
            self._report("ready", watched)
            return True
        program = watched.process.program
        if time.monotonic() - watched.started_at > program.start_seconds:
            raise StartError(f"{program.name} was not ready after {program.start_seconds:g} s", log=program.log)
        return False

    def _stop_group(self, group: list[_Watched]) -> None:
        for watched in group:
            watched.process.request_stop()
        for watched in group:
            was_running = watched.process.pid is not None
            watched.process.wait_until_stopped()
            if was_running:
                self._report("stopped", watched)

    def _watch(self) -> None:
        while not self._is_stopping.wait(POLL_SECONDS):
            for watched in [watched for group in list(self._groups) for watched in group]:
                with self._guard:
                    if not watched.is_down_on_purpose:
                        self._look_at(watched)

    def _look_at(self, watched: _Watched) -> None:
        now = time.monotonic()
        if watched.process.is_running:
            if not watched.is_ready:
                # It may end between the two looks; the next round sees that.
                with suppress(StartError):
                    watched.is_ready = watched.process.check_ready()
                    if watched.is_ready:
                        self._report("ready", watched)
        elif watched.restart_at is None:
            self._plan_restart(watched, now)
        elif now >= watched.restart_at:
            self._report("restarting", watched)
            try:
                self._launch(watched)
            except LocalStackError as error:
                self._plan_restart(watched, now, detail=str(error))

    def _plan_restart(self, watched: _Watched, now: float, *, detail: str = "") -> None:
        # A crashed parent may have left workers, which would run beside those of the next one.
        watched.process.kill()
        if now - watched.started_at > SETTLED_SECONDS:
            watched.pause_seconds = FIRST_PAUSE_SECONDS
        watched.restart_at = now + watched.pause_seconds
        detail = detail or f"exit code {watched.process.exit_code}, see {watched.process.program.log}"
        name = watched.process.name
        self._on_event(Event(kind="crashed", name=name, seconds=watched.pause_seconds, detail=detail))
        watched.pause_seconds = min(watched.pause_seconds * 2, LONGEST_PAUSE_SECONDS)

    def _report(self, kind: EventKind, watched: _Watched) -> None:
        seconds = time.monotonic() - watched.started_at
        self._on_event(Event(kind=kind, name=watched.process.name, seconds=seconds))

    def _write_holder(self) -> None:
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def _holder(self) -> str:
        return (self._folder / "supervisor.lock").read_text() or "unknown"
