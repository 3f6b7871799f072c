"""A worker's connection to PostgreSQL: limits and promises that are meant for web requests do not hold for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath import driver

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

#: A page of a large backlog, or a window of large rows, can take seconds on a slow disk.
SHORTEST_STATEMENT_SECONDS = 60


def lengthen_limits(connection: BaseDatabaseWrapper, **_: object) -> None:
    """Receiver of `connection_created`: a limit that is too short for a window gets SHORTEST_STATEMENT_SECONDS, and
    commits wait for the disk. Otherwise a power cut could undo the record of a window whose insert was sent, and its
    rows would be sent again in another one.

    Behind a pooler, the server's session is not the connection's alone, and others would get the limit, too. There
    `doctor` says what to set.
    """
    if connection.vendor != "postgresql":
        return
    with driver.cursor(connection) as cursor:
        cursor.execute(
            """
            SELECT set_config(name, CASE name WHEN 'synchronous_commit' THEN 'on' ELSE %(limit)s END, false)
            FROM pg_settings
            WHERE pg_backend_pid() = %(own)s AND CASE
                WHEN name = 'synchronous_commit' THEN setting = 'off'
                WHEN name IN ('statement_timeout', 'transaction_timeout')
                    THEN setting::bigint BETWEEN 1 AND %(too_short)s
                ELSE false
            END
            """,
            {
                "limit": f"{SHORTEST_STATEMENT_SECONDS}s",
                "too_short": SHORTEST_STATEMENT_SECONDS * 1000 - 1,
                "own": connection.connection.info.backend_pid,
            },
        )
