"""How many blocks of a table and its indexes are read, as PostgreSQL counts them: the same on every machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import connection

if TYPE_CHECKING:
    from collections.abc import Callable


def block_reads(table: str, act: Callable[[], object]) -> int:
    """Blocks of the table and of its indexes that this thread's connection has read while it did that, cached or not.

    Nobody else may be at the table meanwhile.
    """
    before = _counted(table)
    act()
    return _counted(table) - before


def _counted(table: str) -> int:
    with connection.cursor() as cursor:
        # Counts are published when a transaction ends, and otherwise not more than once a second.
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute(
            """
            SELECT heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit
            FROM pg_statio_user_tables WHERE relid = %s::regclass
            """,
            [table],
        )
        return int(cursor.fetchone()[0])
