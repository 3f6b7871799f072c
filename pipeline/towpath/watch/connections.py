"""Connections to PostgreSQL: how many are in use, how many the fleet needs, and how many are allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import connection

from towpath import driver

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Above this share, the next update of the fleet may find no room: old and new processes run side by side for a while.
_FULL = 0.8
#: Connections of a dispatcher: its four actor threads, its two shifts, and what runs beside them, such as verification.
_OF_A_DISPATCHER = 8
#: The same with a pool, to which actor threads give theirs back.
_OF_A_POOLED_DISPATCHER = 4
#: Connections of an aggregator besides its writers: the spare writer, and the thread that renews leases.
_OF_AN_AGGREGATOR = 2

_REMEDY = (
    "Raise the limit, or put PgBouncer in transaction mode in front of PostgreSQL (docs/deployment.md, PgBouncer)."
    " docs/scale.md has the arithmetic"
)


@dataclass(frozen=True, slots=True)
class Limit:
    """How many connections of a server, a database or a role may be open, and how many are."""

    #: The setting, by the name that a person would look for.
    name: str
    most: int
    used: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """Worker processes that run now, as RabbitMQ sees them."""

    dispatchers: int
    aggregators: int


def read_limits() -> list[Limit]:
    """Return every limit for this role, without the connections that are reserved for superusers."""
    with driver.cursor() as cursor:
        # reserved_connections came with PostgreSQL 16.
        cursor.execute(
            """
            SELECT 'max_connections', setting::int - (
                SELECT sum(setting::int) FROM pg_settings
                WHERE name IN ('superuser_reserved_connections', 'reserved_connections')
            ), (SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL)
            FROM pg_settings WHERE name = 'max_connections'
            UNION ALL
            SELECT format('the connection limit of the database %s', datname), datconnlimit,
                   (SELECT count(*) FROM pg_stat_activity AS a WHERE a.datname = d.datname)
            FROM pg_database AS d WHERE datname = current_database() AND datconnlimit >= 0
            UNION ALL
            SELECT format('the connection limit of the role %s', rolname), rolconnlimit,
                   (SELECT count(*) FROM pg_stat_activity AS a WHERE a.usename = r.rolname)
            FROM pg_roles AS r WHERE rolname = session_user AND rolconnlimit >= 0
            """
        )
        return [Limit(*row) for row in cursor.fetchall()]


def is_pooled() -> bool:
    """True if there is a pooler in between: then each process does not have its own connection to PostgreSQL."""
    with driver.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return bool(cursor.fetchone()[0] != connection.connection.info.backend_pid)


def most_of_a_process(*, writers: int) -> int:
    """Return the most connections that one process takes from a pool at work."""
    return max(_OF_A_POOLED_DISPATCHER, writers + _OF_AN_AGGREGATOR)


def most_of(fleet: Fleet, *, writers: int) -> int:
    """Return how many connections the fleet takes when all its workers are at work."""
    return fleet.dispatchers * _OF_A_DISPATCHER + fleet.aggregators * (writers + _OF_AN_AGGREGATOR)


def connection_problems(limits: list[Limit], fleet: Fleet | None, *, writers: int) -> Iterator[str]:
    """Yield the limits that are nearly reached, or that this fleet would reach. Without a fleet, only the former."""
    for limit in limits:
        needed = 0 if fleet is None else most_of(fleet, writers=writers)
        if limit.used > _FULL * limit.most:
            yield f"{limit.used} of {limit.most} connections are in use ({limit.name}). {_REMEDY}"
        elif fleet is not None and needed > _FULL * limit.most:
            yield (
                f"{fleet.aggregators} aggregator(s) with WINDOW_WRITERS={writers} and {fleet.dispatchers}"
                f" dispatcher(s) need up to {needed} connections, but only {limit.most} are available ({limit.name})."
                f" {_REMEDY}"
            )
