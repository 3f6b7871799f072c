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
    """End what is written down and still runs, with its descendants; returns the names of the programs of the stack
    that were ended, each once."""
    if not file.exists():
        return []
    program_of = _find(json.loads(file.read_text()))
    leftovers = list(program_of)
    names = dict.fromkeys(name for process, name in program_of.items() if process.is_running())
    for process in leftovers:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(leftovers, timeout=_GRACE_SECONDS)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=_GRACE_SECONDS)
    file.unlink()
    return list(names)


def _find(entries: list[dict[str, str | int | float]]) -> dict[psutil.Process, str]:
    """What runs of it, each process with the name of its program."""
    by_pid = {entry["pid"]: entry for entry in entries}
    by_token = {entry["token"]: entry for entry in entries}
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            entry = by_pid.get(process.pid)
            if entry is None or abs(process.create_time() - float(entry["started"])) >= _CLOCK_TOLERANCE_SECONDS:
                entry = by_token.get(process.environ().get(TOKEN_VARIABLE, ""))
            if entry is not None:
                found[process] = str(entry["name"])
    return found
