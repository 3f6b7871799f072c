"""Canaries: events of the pipeline's own, and when each could be read in the event store. Rows go after two hours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from towpath import driver
from towpath.ledger.marks import INDEX_PROBES_ONLY

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence
    from datetime import datetime

#: As long as the history.
_KEPT_MINUTES = 130
#: One that is not stored after so long is looked for no more, and the next one is sent. It stays late until it goes.
_LOOKED_FOR_MINUTES = 60

#: The dispatcher looks each second whether one is due.
_OVERDUE_SECONDS = 10.0

_LOCK = "SELECT pg_advisory_xact_lock(1953462128, 'pipeline_canary'::regclass::oid::int);"
_IS_OPEN = f"""queryable_at IS NULL
    AND published_at > statement_timestamp() - make_interval(mins => {_LOOKED_FOR_MINUTES})"""


@dataclass(frozen=True, slots=True)
class Canary:
    """How the canaries are: seconds from commit to queryable, by PostgreSQL's clock."""

    #: Of the last one that could be read; None without one.
    seconds: float | None
    #: How long the oldest has been on its way that cannot be read yet; None without one.
    late_seconds: float | None
    #: Since the last one was published, and how often one is.
    published_seconds_ago: float
    every_seconds: float
    #: Why the event store did not say whether one is there; empty if it did.
    last_error: str

    @property
    def overdue_seconds(self) -> float | None:
        """How long the next one should have been sent by now; None if it is not due, or is late by a look or two."""
        overdue = self.published_seconds_ago - self.every_seconds
        return overdue if self.late_seconds is None and overdue > _OVERDUE_SECONDS else None

    @property
    def worst_seconds(self) -> float | None:
        """How long an event takes now, as far as canaries show; None without one. If nobody sends the next one, the
        last one says less and less."""
        ages = (self.seconds, self.late_seconds, self.overdue_seconds)
        return max((age for age in ages if age is not None), default=None)


@dataclass(frozen=True, slots=True)
class OpenCanary:
    """One that has not been read in the event store yet."""

    token: uuid.UUID
    published_at: datetime


def lock() -> None:
    """Wait until nobody else sends one, and keep others from it to the end of this transaction."""
    with driver.cursor() as cursor:
        cursor.execute(_LOCK)


def is_due(*, every_seconds: float) -> bool:
    """True if the last one was published so long ago, and none is on its way. For a transaction with the lock."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT NOT EXISTS (
                SELECT FROM (SELECT * FROM pipeline_canary ORDER BY number DESC LIMIT 1) AS last
                WHERE published_at > statement_timestamp() - make_interval(secs => %(every)s) OR {_IS_OPEN}
            )
            """,
            {"every": every_seconds},
        )
        return bool(cursor.fetchone()[0])


def insert(token: uuid.UUID, *, every_seconds: float) -> None:
    """Note that it is published, now: best as the last statement before the commit. Removes what is too old."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            DELETE FROM pipeline_canary WHERE published_at < statement_timestamp() - make_interval(mins => %(kept)s);
            INSERT INTO pipeline_canary (token, published_at, every_seconds)
            VALUES (%(token)s, clock_timestamp(), %(every)s)
            """,
            {"token": token, "every": every_seconds, "kept": _KEPT_MINUTES},
        )


def forget() -> None:
    """None is sent any more: nobody is to miss the next one."""
    with driver.cursor() as cursor:
        cursor.execute("DELETE FROM pipeline_canary")


def read_open() -> Sequence[OpenCanary]:
    """Those that are looked for."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"SELECT token, published_at FROM pipeline_canary WHERE {_IS_OPEN} ORDER BY number DESC LIMIT 10"
        )
        return [OpenCanary(*row) for row in cursor.fetchall()]


def note_queryable(tokens: Sequence[uuid.UUID]) -> None:
    """These can be read in the event store now."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            UPDATE pipeline_canary SET queryable_at = clock_timestamp(), last_error = ''
            WHERE token = ANY(%(tokens)s) AND queryable_at IS NULL
            """,
            {"tokens": list(tokens)},
        )


def note_error(error: str) -> None:
    """Why the event store did not say whether those that are on their way are there."""
    with driver.cursor() as cursor:
        cursor.execute(f"UPDATE pipeline_canary SET last_error = %(error)s WHERE {_IS_OPEN}", {"error": error})


def read_canary() -> Canary | None:
    """How they are; None while none is sent. Of two hours' rows, whatever the backlog."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            WITH kept AS MATERIALIZED (SELECT * FROM pipeline_canary ORDER BY number DESC LIMIT 500)
            SELECT (SELECT extract(epoch FROM queryable_at - published_at)::float8 FROM kept
                    WHERE queryable_at IS NOT NULL ORDER BY number DESC LIMIT 1),
                   extract(epoch FROM statement_timestamp()
                           - min(published_at) FILTER (WHERE queryable_at IS NULL))::float8,
                   extract(epoch FROM statement_timestamp() - max(published_at))::float8,
                   (SELECT every_seconds FROM kept ORDER BY number DESC LIMIT 1),
                   max(last_error)
            FROM kept HAVING count(*) > 0
            """
        )
        found = cursor.fetchone()
        return None if found is None else Canary(*found)
