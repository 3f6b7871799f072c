"""The programs of the application itself: how each is started, known to be ready, and stopped."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from deploy.local.loopback import is_answering
from deploy.local.process import Process, Program
from towpath.conf.launch import program
from towpath.conf.names import QueueNames

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MANAGE = (sys.executable, "manage.py")
_LAUNCH = (sys.executable, "-m", "towpath.conf.launch")

#: gunicorn keeps there the heartbeats of its workers, which must not wait for a disk.
_MEMORY_FOLDER = "/dev/shm"  # noqa: S108 - gunicorn makes files with random names in it

#: The supervisor must wait longer than SHUTDOWN_SECONDS (20).
_WORKER_STOP_SECONDS = 25

MIGRATIONS: Mapping[str, tuple[str, ...]] = {
    "migrate": (*_MANAGE, "migrate", "--noinput"),
    "eventlog-migrate": (*_MANAGE, "eventlog", "migrate"),
}


class Application:
    """Makes the processes of one stack's application; starts none."""

    def __init__(self, *, log_folder: Path, environment: Mapping[str, str]) -> None:
        self._log_folder = log_folder
        self._environment = environment
        self._queues = QueueNames.of(environment.get("QUEUE_PREFIX", ""))

    def migration(self, name: str) -> Process:
        return Process(Program(name=name, argv=MIGRATIONS[name], log=self._log(name), environment=self._environment))

    def web(self, port: int) -> Process:
        return Process(
            Program(
                name="web",
                argv=(
                    sys.executable,
                    "-m",
                    "gunicorn",
                    "backend.config.wsgi",
                    f"--bind=127.0.0.1:{port}",
                    "--worker-class=gthread",
                    "--workers=1",
                    "--threads=8",
                    "--graceful-timeout=10",
                    f"--worker-tmp-dir={_MEMORY_FOLDER}",
                    "--no-control-socket",
                    "--logger-class=backend.config.gunicorn_logs.Logger",
                ),
                log=self._log("web"),
                environment=self._environment,
                is_ready=lambda: is_answering(f"http://127.0.0.1:{port}/healthz"),
                death_signal=signal.SIGTERM,
            )
        )

    def scheduler(self) -> Process:
        return Process(
            Program(
                name="scheduler",
                argv=(*_LAUNCH, *program("scheduler", self._queues)),
                log=self._log("scheduler"),
                environment=self._environment,
            )
        )

    def dispatcher(self) -> Process:
        return self._worker("dispatcher", role="dispatcher")

    def aggregator(self, number: int) -> Process:
        return self._worker(f"aggregator-{number}", role="aggregator")

    def _worker(self, name: str, *, role: str) -> Process:
        return Process(
            Program(
                name=name,
                argv=(*_LAUNCH, *program(role, self._queues)),
                log=self._log(name),
                environment=self._environment,
                ready_text="Worker process is ready for action",
                stop_seconds=_WORKER_STOP_SECONDS,
                # Killed, dramatiq's master would leave its workers behind; asked to end, it ends them.
                death_signal=signal.SIGTERM,
            )
        )

    def _log(self, name: str) -> Path:
        return self._log_folder / f"{name}.log"
