"""The application's real processes, as `deploy.local` starts them, for one test."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self

from deploy.local.application import Application
from deploy.local.process import TOKEN_VARIABLE, Process, open_log
from tests.forked import Forked
from towpath.actors import dispatch_shift, recover_shift

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services import Services

SHIFTS = (dispatch_shift, recover_shift)

#: Everything happens soon, so that a test of what happens after a death does not wait long.
QUICK = {
    "DISPATCH_INTERVAL_SECONDS": "0.1",
    "WINDOW_LINGER_SECONDS": "0.3",
    "LEASE_SECONDS": "1.5",
    "UNSEALED_SECONDS": "2",
    "STORE_TIMEOUT_SECONDS": "3",
}


class ForkedProcess(Process):
    """A program in Python, which has the libraries imported already when it starts."""

    def _spawn(self) -> Any:
        _, *arguments = self.program.argv
        with open_log(self.program.log) as log:
            self._log_start = log.tell()
            return Forked(
                *arguments,
                cwd=self.program.folder,
                env={**os.environ, **self.program.environment, TOKEN_VARIABLE: self.token},
                outputs=(log.fileno(), log.fileno()),
                is_session=True,
            )


class Workers:
    """Starts processes and remembers them; all are killed at the end, with their descendants."""

    def __init__(self, services: Services, *, log_folder: Path, kind: type[Process] = Process) -> None:
        self._services = services
        self._kind = kind
        self._log_folder = log_folder
        self._started: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.kill()

    def dispatcher(self, **knobs: str) -> Process:
        """A dispatcher, and a tick of each shift, as if there were a scheduler."""
        worker = self.idle_dispatcher(**knobs)
        for shift in SHIFTS:
            shift.send()
        return worker

    def idle_dispatcher(self, **knobs: str) -> Process:
        """A dispatcher without a tick: it works all the same, and `status` misses the scheduler."""
        return self._start(self._application(knobs).dispatcher())

    def aggregator(self, number: int = 1, /, **knobs: str) -> Process:
        return self._start(self._application(knobs).aggregator(number))

    def scheduler(self, **knobs: str) -> Process:
        return self._start(self._application(knobs).scheduler())

    def web(self, **knobs: str) -> Process:
        return self._start(self._application(knobs).web(self._services.web_port))

    def wait_until_ready(self) -> None:
        for process in self._started:
            process.wait_until_ready()

    def _application(self, knobs: dict[str, str]) -> Application:
        return Application(log_folder=self._log_folder, environment=knobs)

    def _start(self, made: Process) -> Process:
        process = self._kind(made.program)
        self._started.append(process)
        process.start()
        return process
