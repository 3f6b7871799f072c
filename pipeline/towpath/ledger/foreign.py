"""Messages of another ledger in this one's queues. Two projects that share queues take each other's messages: each then
finds its batches only seconds later, in its own ledger. A worker notes what it sees, and `status` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from towpath import driver

#: Who has seen nothing for so long has seen the last of them.
_SHOWN_SECONDS = 600


@dataclass(frozen=True, slots=True)
class ForeignMessages:
    """That messages arrived in a queue: the ledger of the last one, and how long ago that was."""

    queue: str
    ledger: str
    seconds_ago: float


def ledger_id() -> str:
    """What tells this ledger from all others: 16 hexadecimal digits, of the database's name and its cluster's identity.

    A copy in another cluster has another. A standby that is promoted keeps it: it goes on with the same ledger.
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
    """What has arrived of others within the last ten minutes."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT queue, ledger, extract(epoch FROM statement_timestamp() - seen_at)::float8 AS ago
            FROM pipeline_foreign WHERE seen_at > statement_timestamp() - %(shown)s * interval '1 second' ORDER BY queue
            """,
            {"shown": _SHOWN_SECONDS},
        )
        return [ForeignMessages(*row) for row in cursor.fetchall()]
