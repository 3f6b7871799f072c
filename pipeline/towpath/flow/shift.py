"""A shift: a loop that runs in one place at a time, for as long as there is a process that can run it.

Every dispatcher is ready for each shift. One of them has the token (a row of the ledger) and works, and says every
second that it is alive. If it has not done so for a few seconds, or has left, another one takes the token, and the
first one notices at its next turn. It does no harm if two overlap for a moment: what must not happen twice is guarded
where it happens (the cursor's lock, the seal, the lease).

None of this needs a message. The scheduler's ticks are noted, so that `status` knows whether they arrive.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import structlog
from django.db import DatabaseError, InterfaceError, connection
from dramatiq.errors import BrokerError

from towpath.errors import described
from towpath.flow.pause import pause_seconds
from towpath.ledger import shifts
from towpath.telemetry import heartbeat

if TYPE_CHECKING:
    import threading
    import uuid
    from collections.abc import Callable

log = structlog.get_logger()

#: How often a working shift says so in the ledger, and how long it may be silent before another process takes over, in
#: seconds.
ALIVE_EVERY_SECONDS = 1
SILENT_SECONDS = 3
#: How often the other dispatchers look, in seconds.
_STAND_BY_SECONDS = 0.5
#: The first and the longest pause after a failed turn, in seconds.
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0

#: By shift: what interrupted it last in this process, and may not be over.
_interrupted: dict[str, Exception] = {}


def run_shift(name: str, work: Callable[[], float], *, stopping: threading.Event) -> None:
    """Call `work` again and again while this process has the shift, until told to stop. `work` returns the seconds
    until its next turn.

    Any error of a turn is noted in the ledger, for `status`, and the next turn follows all the same.
    """
    token: uuid.UUID | None = None
    failures = 0
    due = 0.0
    with heartbeat.progress(f"{name} shift"):
        while not stopping.is_set():
            heartbeat.step()
            try:
                if token is None or not shifts.keep(name, token, alive_every_seconds=ALIVE_EVERY_SECONDS):
                    token = _take_if_free(name)
                if token is not None and time.monotonic() >= due:
                    due = time.monotonic() + work()
                    failures = 0
                    if not isinstance(_interrupted.get(name), BrokerError):
                        note_success(name)
            except Exception as error:  # noqa: BLE001 - a shift ends with its process only
                connection.close()
                failures += 1
                pause = pause_seconds(failures, first=_FIRST_PAUSE_SECONDS, longest=_LONGEST_PAUSE_SECONDS)
                due = time.monotonic() + pause
                _note_interruption(name, error, pause=pause)
                if token is None:
                    stopping.wait(pause)
            # In short steps, because even a waiting shift must say that it is alive.
            stopping.wait(_STAND_BY_SECONDS if token is None else min(due - time.monotonic(), ALIVE_EVERY_SECONDS))
    with contextlib.suppress(DatabaseError, InterfaceError):
        if token is not None:
            shifts.leave(name, token)
    connection.close()


def note_success(name: str) -> None:
    """Note that what interrupted this process's shift is over. For RabbitMQ's failures, only a sent message shows
    that."""
    if _interrupted.pop(name, None) is not None:
        shifts.note_success(name)


def _note_interruption(name: str, error: Exception, *, pause: float) -> None:
    is_expected = isinstance(error, (DatabaseError, InterfaceError, BrokerError))
    report = log.warning if is_expected else log.exception
    report("shift_interrupted", shift=name, error=described(error), retry_in_seconds=round(pause, 1))
    _interrupted[name] = error
    with contextlib.suppress(DatabaseError, InterfaceError):
        shifts.note_interruption(name, described(error))


def _take_if_free(name: str) -> uuid.UUID | None:
    token = shifts.take_if_free(name, silent_seconds=SILENT_SECONDS)
    if token is not None:
        log.info("shift_taken", shift=name)
    return token
