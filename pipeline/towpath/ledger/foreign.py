"""Messages of another ledger in this one's queues. Two projects that share queues take each other's messages: each then
finds its batches only seconds later, in its own ledger. A worker notes what it sees, and `status` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from towpath import driver

#: After this long without such a message, they are taken to have stopped.
_SHOWN_SECONDS = 600


@dataclass(frozen=True, slots=True)
class ForeignMessages:
    """Messages of another ledger in a queue: the ledger of the last one, and how long ago it came."""

    queue: str
    ledger: str
    seconds_ago: float


def ledger_id() -> str:
    """Return what identifies this ledger: 16 hexadecimal digits, from the database's name and its cluster's identity.

    A copy in another cluster has a different one. A promoted standby keeps it, because it continues the same ledger.
    """
    with driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT left(encode(sha256(convert_to(system_identifier || '/' || current_database(), 'UTF8')), 'hex'), 16)
            FROM pg_control_system()
            """
        )
        return str(cursor.fetchone()[0])


def note_foreign(queue: str, *, ledger: str) -> None:
    """Note that a message of that ledger has come out of the queue."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO pipeline_foreign (queue, ledger, seen_at)
            VALUES (%(queue)s, %(ledger)s, statement_timestamp())
            ON CONFLICT (queue) DO UPDATE SET ledger = excluded.ledger, seen_at = excluded.seen_at
            """,
            {"queue": queue, "ledger": ledger},
        )


def read_foreign() -> list[ForeignMessages]:
    """Return the messages of other ledgers that arrived within the last ten minutes."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT queue, ledger, extract(epoch FROM statement_timestamp() - seen_at)::float8 AS ago
            FROM pipeline_foreign WHERE seen_at > statement_timestamp() - %(shown)s * interval '1 second' ORDER BY queue
            """,
            {"shown": _SHOWN_SECONDS},
        )
        return [ForeignMessages(*row) for row in cursor.fetchall()]
