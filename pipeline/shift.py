"""A shift: a loop that runs in one place at a time, and is handed over without a gap.

The scheduler ticks once a minute, and a tick means "make sure a shift is running": each tick starts a shift that takes
the token from the one before, which notices at its next turn and leaves. If the process dies, RabbitMQ delivers the
shift's message to another one. That two shifts overlap for a moment does no harm: what must not happen twice is
guarded where it happens (the cursor's lock, the seal, the lease).
"""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING

import structlog
from django.db import DatabaseError, InterfaceError, connection
from dramatiq.errors import BrokerError

from pipeline import heartbeat
from pipeline.errors import described

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

log = structlog.get_logger()

#: How often a working shift says so in the ledger.
ALIVE_EVERY_SECONDS = 5
#: The longest pause while a service that the shift needs is away, seconds.
_LONGEST_PAUSE_SECONDS = 5.0


def run_shift(name: str, work: Callable[[], float], *, stopping: threading.Event) -> bool:
    """Call `work`, and pause for as many seconds as it says, until a newer shift has the token or `stopping` is set.

    Returns True if the shift ended because the process is stopping, so that somebody else must be told to go on.
    """
    token = None
    failures = 0
    with heartbeat.progress(f"{name} shift"):
        while not stopping.is_set():
            heartbeat.turn()
            try:
                token = token or _take(name)
                if not _has_token(name, token):
                    return False
                pause = work()
                failures = 0
            except Exception as error:  # noqa: BLE001 - nobody else does this work; `status` shows what it was
                connection.close()
                failures += 1
                pause = min(0.1 * 2.0**failures, _LONGEST_PAUSE_SECONDS)
                is_expected = isinstance(error, (DatabaseError, InterfaceError, BrokerError))
                report = log.warning if is_expected else log.exception
                report("shift_interrupted", shift=name, error=described(error), retry_in_seconds=pause)
                with contextlib.suppress(DatabaseError, InterfaceError):
                    _note_interruption(name, error)
            stopping.wait(pause)
    return True


def _take(name: str) -> uuid.UUID:
    token = uuid.uuid4()
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO pipeline_shift (name, token, taken_at, alive_at)"
            " VALUES (%s, %s, clock_timestamp(), clock_timestamp()) ON CONFLICT (name)"
            " DO UPDATE SET token = excluded.token, taken_at = excluded.taken_at, alive_at = excluded.alive_at",
            [name, token],
        )
    log.info("shift_taken", shift=name)
    return token


def _note_interruption(name: str, error: Exception) -> None:
    """For `status`. Not taken back when it is over: only the next message that is published shows that."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pipeline_shift SET interrupted_at = clock_timestamp(), last_error = %s WHERE name = %s",
            [described(error), name],
        )


def _has_token(name: str, token: uuid.UUID) -> bool:
    """True if no newer shift has taken over. Says every few seconds that this one is alive."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT alive_at < clock_timestamp() - make_interval(secs => %s) FROM pipeline_shift"
            " WHERE name = %s AND token = %s",
            [ALIVE_EVERY_SECONDS, name, token],
        )
        found = cursor.fetchone()
        if found is not None and found[0]:
            cursor.execute(
                "UPDATE pipeline_shift SET alive_at = clock_timestamp() WHERE name = %s AND token = %s", [name, token]
            )
    return found is not None
