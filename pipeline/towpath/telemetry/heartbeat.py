"""The heartbeat of a process: a file that is renewed while the process's work makes progress, for `towpath.probe`.

Whoever does something that must come to an end does it `with progress("...")`, and calls `step()` at each step of it,
wherever in the thread that is. A thread of its own renews the file as long as no such work has stood still for
WEDGED_SECONDS and no thread that must live has died. Waiting for something to do is no work, and a service that is
away is no standstill: each attempt is a step.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from django.conf import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

log = structlog.get_logger()

#: What a process is called by the queue it works at.
_ROLES = {"dispatch": "dispatcher", "aggregate": "aggregator"}

#: How often a worker renews its heartbeat, and how old it may be: a busy machine may keep a thread waiting.
_EVERY_SECONDS = 2.0
_WITHIN_SECONDS = 20.0
#: The scheduler's is renewed with each tick, once a minute.
SCHEDULER_WITHIN_SECONDS = 130.0


@dataclass(slots=True, eq=False)
class _Work:
    name: str
    moved_at: float


#: What is under way, by thread: outer work first.
_under_way: defaultdict[int, list[_Work]] = defaultdict(list)
_changing = threading.Lock()


@contextlib.contextmanager
def progress(name: str) -> Iterator[None]:
    """While inside, the process counts as wedged when this thread does not call `step()` for WEDGED_SECONDS."""
    thread, work = threading.get_ident(), _Work(name, time.monotonic())
    with _changing:
        _under_way[thread].append(work)
    try:
        yield
    finally:
        with _changing:
            _under_way[thread].remove(work)
            if not _under_way[thread]:
                del _under_way[thread]
        step()


def step() -> None:
    """This thread's work has moved on by a step."""
    now = time.monotonic()
    with _changing:
        for work in _under_way.get(threading.get_ident(), ()):
            work.moved_at = now


def role_of(queues: Iterable[str] | None) -> str:
    """What a worker is that listens to these queues; "worker" when that is no single one of ours."""
    roles = {_ROLES.get(queue, "worker") for queue in queues or ()}
    return roles.pop() if len(roles) == 1 else "worker"


def start(role: str, *, threads: Callable[[], Iterable[threading.Thread]]) -> None:
    """Renew the heartbeat of this role from now on, while the threads live and all work moves. Off without
    HEARTBEAT_DIR."""
    if settings.TOWPATH.heartbeat_dir:
        threading.Thread(target=_keep, args=(role, threads), name="heartbeat", daemon=True).start()


def beat(role: str, *, within_seconds: float) -> None:
    """Renew the heartbeat; the next comes within these seconds, or the process is dead."""
    folder = Path(settings.TOWPATH.heartbeat_dir)
    draft = folder / f".{role}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps({"at": time.monotonic(), "within_seconds": within_seconds, "pid": os.getpid()}))
        draft.replace(folder / role)  # a probe never reads half of it
    except OSError as error:
        log.warning("heartbeat_not_written", role=role, error=str(error), action="is HEARTBEAT_DIR writable?")


def _keep(role: str, threads: Callable[[], Iterable[threading.Thread]]) -> None:
    was_wedged = False
    while True:
        reasons = [*_standstills(), *(f"thread {one.name} is dead" for one in threads() if not one.is_alive())]
        if not reasons:
            beat(role, within_seconds=_WITHIN_SECONDS)
        elif not was_wedged:
            log.error("process_wedged", role=role, reasons=reasons)
        was_wedged = bool(reasons)
        time.sleep(_EVERY_SECONDS)


def _standstills() -> list[str]:
    now = time.monotonic()
    with _changing:
        still = [(work.name, now - work.moved_at) for works in _under_way.values() for work in works]
    return [f"{name} has not moved for {age:.0f} s" for name, age in still if age > settings.TOWPATH.wedged_seconds]
