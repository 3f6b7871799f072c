"""What is written down about running processes, so that a later start can end what an earlier one left behind.

Invariant: only a process that is certainly ours is ended: same process id and same start time as written down, or it
carries the token that was given to one of ours.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

from deploy.local.credentials import write_private
from deploy.local.process import TOKEN_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from deploy.local.process import Process

#: Most leftovers are stopping already, told by the kernel when their parent died; then they are killed.
_GRACE_SECONDS = 5

#: Start times are computed from the clock of the machine, which may have been set in between.
_CLOCK_TOLERANCE_SECONDS = 1


def write_down(file: Path, processes: Iterable[Process]) -> None:
    """Replace what is written down by the processes that run now."""
    running = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.pid is not None and process.is_running:
                started = psutil.Process(process.pid).create_time()
                running.append({"name": process.name, "pid": process.pid, "started": started, "token": process.token})
    write_private(file, json.dumps(running, indent=1))


def end_leftovers(file: Path) -> list[str]:
    """End what is written down and still runs, with its descendants; returns the command names of what was ended."""
    if not file.exists():
        return []
    leftovers = _find(json.loads(file.read_text()))
    names = [process.name() for process in leftovers if process.is_running()]
    for process in leftovers:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(leftovers, timeout=_GRACE_SECONDS)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=_GRACE_SECONDS)
    file.unlink()
    return names


def _find(entries: list[dict[str, str | int | float]]) -> list[psutil.Process]:
    started = {entry["pid"]: float(entry["started"]) for entry in entries}
    tokens = {entry["token"] for entry in entries}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            age_difference = abs(process.create_time() - started.get(process.pid, 0))
            if age_difference < _CLOCK_TOLERANCE_SECONDS or process.environ().get(TOKEN_VARIABLE) in tokens:
                found.append(process)
    return found
