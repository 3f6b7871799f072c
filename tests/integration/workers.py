"""The application's real processes, as `deploy.local` starts them, for one test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from deploy.local.application import Application
from towpath.actors import dispatch_shift, recover_shift

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.local.process import Process
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


class Workers:
    """Starts processes and remembers them; all are killed at the end, with their descendants."""

    def __init__(self, services: Services, *, log_folder: Path) -> None:
        self._services = services
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

    def _start(self, process: Process) -> Process:
        self._started.append(process)
        process.start()
        return process
