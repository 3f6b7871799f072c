"""The entry point of scheduler and workers: dramatiq or periodiq, with the logs of the settings from the first line on.

    manage.py pipeline run aggregator
    python -m towpath.conf.launch dramatiq django_dramatiq.setup towpath.actors --queues=towpath.aggregate ...

The first becomes the second. Both programs set up `logging` for text before they import what they run, and dramatiq's
master keeps that setup. Both leave `logging` alone if it is already configured. So the settings
(DJANGO_SETTINGS_MODULE) are loaded first. Then the program's own entry point runs, as its console script would run it.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import NoReturn

from django.core.exceptions import ImproperlyConfigured

from towpath.conf.current import config
from towpath.conf.names import QueueNames
from towpath.conf.production import require_services

#: What both programs load: the project's broker, and the actors.
_MODULES = ("django_dramatiq.setup", "towpath.actors")
#: dramatiq waits half of SHUTDOWN_SECONDS (20) for running messages. The other half is for sealed windows.
_WORKER = ("dramatiq", *_MODULES, "--processes=1", "--worker-shutdown-timeout=10000")

ROLES = ("scheduler", "dispatcher", "aggregator")

_POLL_SECONDS = 0.2


def program(role: str, queues: QueueNames) -> tuple[str, ...]:
    """Return the program of a role, and its arguments."""
    match role:
        case "scheduler":
            return ("periodiq", *_MODULES)
        case "dispatcher":
            return (*_WORKER, "--threads=4", f"--queues={queues.dispatch}")
        case _:
            # Its threads wait for a window together.
            return (*_WORKER, "--threads=12", f"--queues={queues.aggregate}")


def become(role: str, arguments: Sequence[str]) -> NoReturn:
    """Replace this process by the role's program, with these additional arguments of dramatiq or periodiq."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [*_command(role), *arguments], _environment())  # noqa: S606 - no shell is wanted


def run_all() -> int:
    """Run one process of each role until SIGINT or SIGTERM, or until one ends: the exit code. For development.

    If this process itself is killed, it leaves them behind.
    """
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    # In separate sessions: otherwise Ctrl-C would reach them together with the SIGTERM from here, and twice means
    # "now".
    running = {
        role: subprocess.Popen(_command(role), env=_environment(), start_new_session=True)  # noqa: S603 - our own
        for role in ROLES
    }
    ended: list[str] = []
    while not ended and not stopping.wait(_POLL_SECONDS):
        ended = [role for role, process in running.items() if process.poll() is not None]
    for process in running.values():
        process.terminate()
    for process in running.values():
        process.wait()
    for role in ended:
        sys.stderr.write(f"The {role} ended with exit code {running[role].returncode}: its last log lines say why.\n")
    return 1 if ended else 0


def _command(role: str) -> list[str]:
    return [sys.executable, "-m", "towpath.conf.launch", *program(role, config().queues)]


def _environment() -> dict[str, str]:
    """That of this process, in which everything can be imported that this one can: manage.py's folder, what it adds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def main() -> None:
    """The command line: the program, and its own arguments."""
    program, *arguments = sys.argv[1:] or [""]
    found = entry_points(group="console_scripts", name=program)
    if not found:
        sys.stderr.write(
            "Usage: python -m towpath.conf.launch PROGRAM ARGUMENT ..., where PROGRAM is dramatiq or periodiq\n"
        )
        sys.exit(2)
    settings = os.environ.get("DJANGO_SETTINGS_MODULE")
    if not settings:
        sys.stderr.write("Set DJANGO_SETTINGS_MODULE to the project's settings, such as mysite.settings.\n")
        sys.exit(2)
    try:
        importlib.import_module(settings)
        require_services()
    except ImproperlyConfigured as error:
        sys.exit(str(error))  # as manage.py
    if program == "periodiq" and any(handler.level for handler in logging.getLogger().handlers):
        # It sets the root logger's level, which would hide what LOG_LEVEL=DEBUG shows: so only the handler decides.
        # Without any level (in a project with its own logs), each step of pika would be logged.
        arguments.append("--verbose")
    # Told to reload (SIGHUP), dramatiq's master executes this script.
    sys.argv = [str(Path(sys.executable).with_name(program)), *arguments]
    (entry_point,) = found
    sys.exit(entry_point.load()())


if __name__ == "__main__":
    main()
