"""Shifts in the ledger: who has the token of each, when it last said that it is alive, and what interrupted it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from towpath import driver
from towpath.ledger.marks import INDEX_PROBES_ONLY
from towpath.ledger.versions import newest, newest_of_each

#: Nobody has the shift: the one that had it has left in an orderly way.
_NOBODY = uuid.UUID(int=0)

_NEWEST = newest("pipeline_shift", key="name", value="%(name)s")

#: How often a change is tried that others, who change the same row, get in the way of.
_ATTEMPTS = 5


def take_if_free(name: str, *, silent_seconds: float) -> uuid.UUID | None:
    """A token for the shift; None if somebody has one and has said within `silent_seconds` that it is alive."""
    shift: dict[str, Any] = {"name": name, "token": uuid.uuid4(), "nobody": _NOBODY, "silent": silent_seconds}
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT version, token = %(nobody)s OR alive_at < statement_timestamp() - make_interval(secs => %(silent)s)
            FROM {_NEWEST} AS shift
            """,
            shift,
        )
        found = cursor.fetchone()
        if found is None:
            cursor.execute(
                """
                INSERT INTO pipeline_shift (name, version, token, taken_at, alive_at)
                VALUES (%(name)s, 0, %(token)s, clock_timestamp(), clock_timestamp()) ON CONFLICT DO NOTHING
                """,
                shift,
            )
            return shift["token"] if cursor.rowcount else None
        version, is_free = found
        if not is_free:
            return None
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            UPDATE pipeline_shift
            SET version = version + 1, token = %(token)s, taken_at = clock_timestamp(), alive_at = clock_timestamp()
            WHERE name = %(name)s AND version = %(version)s
            """,
            {**shift, "version": version},
        )
        return shift["token"] if cursor.rowcount else None


def keep(name: str, token: uuid.UUID, *, alive_every_seconds: float) -> bool:
    """True if nobody has taken the shift over. Says that this holder is alive, if it last said so that long ago."""
    held: dict[str, Any] = {"name": name, "token": token, "every": alive_every_seconds}
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT version, alive_at < statement_timestamp() - make_interval(secs => %(every)s)
            FROM {_NEWEST} AS shift WHERE token = %(token)s
            """,
            held,
        )
        found = cursor.fetchone()
        if found is not None and found[1]:
            # If somebody has just changed the row, the next turn says it.
            cursor.execute(
                f"""{INDEX_PROBES_ONLY}
                UPDATE pipeline_shift SET version = version + 1, alive_at = clock_timestamp()
                WHERE name = %(name)s AND version = %(version)s
                """,
                {"name": name, "version": found[0]},
            )
    return found is not None


def leave(name: str, token: uuid.UUID) -> None:
    """Let another process take the shift immediately."""
    _change(name, "token = %(nobody)s", only="token = %(token)s", nobody=_NOBODY, token=token)


def note_tick(name: str) -> None:
    """A tick of the scheduler for this shift has arrived."""
    _change(name, "taken_at = clock_timestamp()")


def note_interruption(name: str, error: str) -> None:
    """The shift was interrupted by this error."""
    _change(name, "interrupted_at = clock_timestamp(), last_error = %(error)s", error=error)


def note_success(name: str) -> None:
    """What interrupted the shift is over."""
    _change(name, "interrupted_at = NULL, last_error = ''")


def _change(name: str, change: str, *, only: str = "true", **values: Any) -> None:
    """Change the shift's row, if there is one. The holder writes into it each second: then this is tried again."""
    with driver.cursor() as cursor:
        for _ in range(_ATTEMPTS):
            cursor.execute(
                f"""{INDEX_PROBES_ONLY}
                UPDATE pipeline_shift SET version = version + 1, {change}
                WHERE name = %(name)s AND version = (SELECT version FROM {_NEWEST} AS shift) AND {only}
                """,
                {"name": name, **values},
            )
            if cursor.rowcount:
                return


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
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT name, extract(epoch FROM clock_timestamp() - alive_at)::float8,
                   extract(epoch FROM clock_timestamp() - taken_at)::float8,
                   extract(epoch FROM clock_timestamp() - interrupted_at)::float8, last_error
            FROM {newest_of_each("pipeline_shift", key="name")} AS shift ORDER BY name
            """
        )
        return {name: ShiftState(*state) for name, *state in cursor.fetchall()}
