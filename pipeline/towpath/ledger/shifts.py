"""Shifts in the ledger: who has the token of each, when it last said that it is alive, and what interrupted it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from django.db import connection

#: Nobody has the shift: the one that had it has left in an orderly way.
_NOBODY = uuid.UUID(int=0)


def take_if_free(name: str, *, silent_seconds: float) -> uuid.UUID | None:
    """A token for the shift; None if somebody has one and has said within `silent_seconds` that it is alive."""
    token = uuid.uuid4()
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO pipeline_shift AS shift (name, token, taken_at, alive_at)
            VALUES (%(name)s, %(token)s, clock_timestamp(), clock_timestamp())
            ON CONFLICT (name) DO UPDATE
            SET token = excluded.token, taken_at = excluded.taken_at, alive_at = excluded.alive_at
            WHERE shift.token = %(nobody)s
               OR shift.alive_at < clock_timestamp() - make_interval(secs => %(silent)s)
            """,
            {"name": name, "token": token, "nobody": _NOBODY, "silent": silent_seconds},
        )
        return token if cursor.rowcount else None


def keep(name: str, token: uuid.UUID, *, alive_every_seconds: float) -> bool:
    """True if nobody has taken the shift over. Says that this holder is alive, if it last said so that long ago."""
    held: dict[str, Any] = {"name": name, "token": token, "every": alive_every_seconds}
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT alive_at < clock_timestamp() - make_interval(secs => %(every)s)
            FROM pipeline_shift WHERE name = %(name)s AND token = %(token)s
            """,
            held,
        )
        found = cursor.fetchone()
        if found is not None and found[0]:
            cursor.execute(
                """
                UPDATE pipeline_shift SET alive_at = clock_timestamp() WHERE name = %(name)s AND token = %(token)s
                """,
                held,
            )
    return found is not None


def leave(name: str, token: uuid.UUID) -> None:
    """Let another process take the shift immediately."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pipeline_shift SET token = %(nobody)s WHERE name = %(name)s AND token = %(token)s",
            {"nobody": _NOBODY, "name": name, "token": token},
        )


def note_tick(name: str) -> None:
    """A tick of the scheduler for this shift has arrived."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_shift SET taken_at = clock_timestamp() WHERE name = %(name)s", {"name": name})


def note_interruption(name: str, error: str) -> None:
    """The shift was interrupted by this error."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE pipeline_shift SET interrupted_at = clock_timestamp(), last_error = %(error)s WHERE name = %(name)s
            """,
            {"name": name, "error": error},
        )


def note_success(name: str) -> None:
    """What interrupted the shift is over."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pipeline_shift SET interrupted_at = NULL, last_error = '' WHERE name = %(name)s", {"name": name}
        )


# --- What people and probes ask ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShiftState:
    """How many seconds ago a shift was last alive, taken and interrupted, and by what.

    `interrupted_seconds_ago` is None if its work has succeeded since, or was never interrupted.
    """

    alive_seconds_ago: float
    taken_seconds_ago: float
    interrupted_seconds_ago: float | None
    interruption: str


def read_shifts() -> dict[str, ShiftState]:
    """Return the state of every shift that has ever run, by name."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT name, extract(epoch FROM clock_timestamp() - alive_at)::float8,
                   extract(epoch FROM clock_timestamp() - taken_at)::float8,
                   extract(epoch FROM clock_timestamp() - interrupted_at)::float8, last_error
            FROM pipeline_shift ORDER BY name
            """
        )
        return {name: ShiftState(*state) for name, *state in cursor.fetchall()}
