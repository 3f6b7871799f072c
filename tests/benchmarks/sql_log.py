"""Statements as PostgreSQL itself counts them: each is logged while the count is on, BEGIN, COMMIT and COPY included.

A message logged is a round trip: Django's cursors speak the simple protocol with either driver. Only what begins and
ends a transaction of psycopg 3 is logged as of the extended one.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.db import connection

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

#: `2026-11-23 07:30:21.123 UTC [4711] LOG:  statement: SELECT ...`, and each further line of it after a tab.
#: Or `LOG:  execute <unnamed>: BEGIN`.
_STATEMENT = re.compile(rb"^[^\[\n]*\[(\d+)\] LOG:  (?:statement|execute [^:\n]*):\s+(.*(?:\n\t.*)*)", re.MULTILINE)

_SETTINGS = {
    "log_statement": "all",
    # Whole pages are logged at the first change after a checkpoint: that is a matter of when, not of what is done.
    "full_page_writes": "off",
    # Vacuum writes WAL, too, whenever it likes.
    "autovacuum": "off",
}


@dataclass(slots=True)
class Counts:
    """Filled when the counting ends."""

    #: Each message to the server (a round trip, of one statement or several), in order.
    statements: list[str] = field(default_factory=list)
    wal_bytes: int = 0

    def of(self, word: str) -> int:
        """How many messages have a statement that begins so."""
        return sum(bool(re.search(rf"(^|;)\s*{word}\b", statement)) for statement in self.statements)


@contextlib.contextmanager
def server_settings(settings: Mapping[str, str]) -> Iterator[None]:
    """The server has these settings while inside; a moment passes before every session has them."""
    with connection.cursor() as cursor:
        for name, value in settings.items():
            cursor.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        cursor.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            for name in settings:
                cursor.execute(f"ALTER SYSTEM RESET {name}")
            cursor.execute("SELECT pg_reload_conf()")


@contextlib.contextmanager
def counting(log: Path) -> Iterator[None]:
    """The server logs every statement while inside. Put around `counted`, because the change takes a moment."""
    with server_settings(_SETTINGS):
        _wait_until_logged(log)
        yield


@contextlib.contextmanager
def counted(log: Path, *, is_own: bool) -> Iterator[Counts]:
    """What happens while inside: on this thread's connection (`is_own`), or on all others."""
    counts = Counts()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), pg_current_wal_insert_lsn()")
        own_pid, wal_start = cursor.fetchone()
    start = log.stat().st_size
    yield counts
    end = log.stat().st_size
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", [wal_start])
        counts.wal_bytes = int(cursor.fetchone()[0])
    with log.open("rb") as file:
        file.seek(start)
        text = file.read(end - start)
    counts.statements += [
        statement.decode(errors="replace").strip()
        for pid, statement in _STATEMENT.findall(text)
        if (int(pid) == own_pid) == is_own
    ]


def _wait_until_logged(log: Path) -> None:
    from tests.waiting import eventually

    def is_logged() -> bool:
        start = log.stat().st_size
        with connection.cursor() as cursor:
            cursor.execute("SELECT 'is it on'")
        with log.open("rb") as file:
            file.seek(start)
            return b"is it on" in file.read()

    eventually(is_logged, seconds=10, what="PostgreSQL logs statements")
