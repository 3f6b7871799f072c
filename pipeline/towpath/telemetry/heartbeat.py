"""The heartbeat of a process: a file that is renewed while the process's work makes progress, for `towpath.probe`.

A thread does work that must come to an end `with progress("...")`, one piece at a time, and calls `step()` whenever it
has moved. A separate thread renews the file as long as no work has stood still for WEDGED_SECONDS, and no required
thread has died. Waiting for something to do is not work. A service that is away is not a standstill, because each
attempt is a step. A queue that RabbitMQ refuses is a standstill, because time does not fix it.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

log = structlog.get_logger()

#: How often a worker renews its heartbeat, and how old it may be: a busy machine may keep a thread waiting.
_EVERY_SECONDS = 2.0
_WITHIN_SECONDS = 20.0
#: The scheduler's is renewed with each tick, once a minute.
SCHEDULER_WITHIN_SECONDS = 130.0


@dataclass(slots=True, eq=False)
class _Work:
    name: str
    moved_at: float


#: The work in progress, by thread.
_under_way: dict[int, _Work] = {}
#: The queues that RabbitMQ refuses this process, and since when.
_refused_since: dict[str, float] = {}
_changing = threading.Lock()


@contextlib.contextmanager
def progress(name: str) -> Iterator[None]:
    """While inside, the process counts as wedged if this thread does not call `step()` for WEDGED_SECONDS.

    Raises RuntimeError inside other work of the same thread.
    """
    thread = threading.get_ident()
    with _changing:
        if thread in _under_way:
            raise RuntimeError(f"{name} is nested in {_under_way[thread].name}: call step() instead")
        _under_way[thread] = _Work(name, time.monotonic())
    try:
        yield
    finally:
        with _changing:
            del _under_way[thread]


def step() -> None:
    """Note that this thread's work, if it does any, has moved on."""
    with _changing:
        if (work := _under_way.get(threading.get_ident())) is not None:
            work.moved_at = time.monotonic()


def refused(queue: str) -> None:
    """Note that RabbitMQ answers and refuses this queue. After WEDGED_SECONDS of that, the process counts as wedged."""
    with _changing:
        _refused_since.setdefault(queue, time.monotonic())


def not_refused(queue: str) -> None:
    """Note that RabbitMQ lets this process consume the queue, or does not answer."""
    with _changing:
        _refused_since.pop(queue, None)


def start(role: str, *, folder: Path, wedged_seconds: float, threads: Callable[[], Iterable[threading.Thread]]) -> None:
    """Renew the heartbeat of this role from now on, while the threads live and all work moves."""
    keep = threading.Thread(target=_keep, args=(role, folder, wedged_seconds, threads), name="heartbeat", daemon=True)
    keep.start()


def beat(role: str, *, folder: Path, within_seconds: float) -> None:
    """Renew the heartbeat; the next comes within these seconds, or the process is dead."""
    draft = folder / f".{role}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps({"at": time.monotonic(), "within_seconds": within_seconds, "pid": os.getpid()}))
        draft.replace(folder / role)  # a probe never reads half of it
    except OSError as error:
        log.warning("heartbeat_not_written", role=role, error=str(error), action="is HEARTBEAT_DIR writable?")


def _keep(role: str, folder: Path, wedged_seconds: float, threads: Callable[[], Iterable[threading.Thread]]) -> None:
    was_wedged = False
    while True:
        dead = [f"thread {thread.name} is dead" for thread in threads() if not thread.is_alive()]
        reasons = [*_standstills(wedged_seconds), *dead]
        if not reasons:
            beat(role, folder=folder, within_seconds=_WITHIN_SECONDS)
        elif not was_wedged:
            log.error("process_wedged", role=role, reasons=reasons)
        was_wedged = bool(reasons)
        time.sleep(_EVERY_SECONDS)


def _standstills(wedged_seconds: float) -> list[str]:
    now = time.monotonic()
    with _changing:
        ages = [(f"{work.name} has not moved", now - work.moved_at) for work in _under_way.values()]
        ages += [(f"the queue {name} has been refused", now - since) for name, since in _refused_since.items()]
    return [f"{text} for {age:.0f} s" for text, age in ages if age > wedged_seconds]
