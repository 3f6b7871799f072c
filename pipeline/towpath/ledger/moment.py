"""A look at the ledger, for people and machines that ask. Everything that is read is of one moment.

It also works inside a caller's transaction (a test's, or a request's with ATOMIC_REQUESTS), which is left as it was.
Then it reads that transaction's own snapshots.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, TypeVar

from django.db import DatabaseError, OperationalError, connection, transaction

from towpath import driver
from towpath.ledger.marks import INDEX_PROBES_ONLY, PLANNER_SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.db.backends.utils import CursorWrapper

T = TypeVar("T")


@contextlib.contextmanager
def one_moment(*, by_index: bool = True) -> Iterator[CursorWrapper]:
    """A cursor that reads the ledger at one moment. It uses index scans unless asked otherwise: a sequential scan would
    read every receipt, or all the empty pages that a backlog left behind."""
    is_inside = connection.in_atomic_block or not connection.get_autocommit()
    with transaction.atomic():
        if not is_inside:
            # Not through Django's cursor: a wrapper that sends a statement of its own before each would make this one
            # too late.
            with connection.connection.cursor() as raw:
                raw.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        with driver.cursor() as cursor:
            if by_index:
                cursor.execute(INDEX_PROBES_ONLY)
            yield cursor
        if is_inside:
            # What was set ends with the savepoint, and the transaction continues with its own settings.
            transaction.set_rollback(True)


@contextlib.contextmanager
def planner_as_it_was() -> Iterator[None]:
    """Restore at the end what the ledger tells the planner inside. Without a caller's transaction, that ends with each
    message, and nothing is done here."""
    # Without a connection there is no transaction; and PostgreSQL may be away, which the reader reports.
    if connection.connection is None or (not connection.in_atomic_block and connection.get_autocommit()):
        yield
        return
    before: dict[str, str] = {}
    # A failed transaction answers nothing, and is rolled back with its settings.
    with contextlib.suppress(DatabaseError), driver.cursor() as cursor:
        cursor.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%(names)s)", {"names": PLANNER_SETTINGS})
        before = dict(cursor.fetchall())
    try:
        yield
    finally:
        with contextlib.suppress(DatabaseError), driver.cursor() as cursor:
            cursor.execute(
                """
                SELECT set_config(name, setting, true)
                FROM unnest(%(names)s::text[], %(settings)s::text[]) AS before (name, setting)
                """,
                {"names": list(before), "settings": list(before.values())},
            )


def estimate(table: str) -> int:
    """Return about how many rows a table has, from PostgreSQL's statistics. `table` is quoted."""
    with driver.cursor() as cursor:
        cursor.execute("SELECT pg_stat_get_live_tuples(%(table)s::regclass)", {"table": table})
        return int(cursor.fetchone()[0])


def count_or_estimate(table: str, *, first_rows: str, counted_rows: int) -> int:
    """Return how many rows `first_rows` selects: counted up to `counted_rows`, and above, PostgreSQL's estimate of all
    rows of the table."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM ({first_rows} LIMIT %(counted_rows)s) AS counted", {"counted_rows": counted_rows}
        )
        counted = int(cursor.fetchone()[0])
    return counted if counted < counted_rows else max(counted, estimate(table))


#: The time limit of all statements of a look together, in seconds: no longer than a person waits.
_SECONDS = 4.0
#: The limit for waiting for a lock, in seconds. A migration holds one for milliseconds; a longer one may never end.
_LOCK_SECONDS = 0.25
_TOO_LONG = "PostgreSQL takes too long"


class Parts:
    """Reads a look part by part. What cannot be read in time is left out, and named in `unread`."""

    def __init__(self, cursor: CursorWrapper, *, seconds: float = _SECONDS) -> None:
        self.unread: list[str] = []
        self._cursor = cursor
        self._until = time.monotonic() + seconds

    def read(self, what: str, read: Callable[[], T]) -> T | None:
        """Return what `read` returns; None if PostgreSQL takes too long, or another session holds a lock.

        Raises OperationalError if not even the part's savepoint comes in time: then the whole look has failed.
        """
        left = self._until - time.monotonic()
        if left <= 0:
            self._leave_out(what, _TOO_LONG)
            return None
        is_begun = False
        try:
            with transaction.atomic():
                is_begun = True
                self._limit(left)
                return read()
        except OperationalError as error:
            match driver.sqlstate(error):
                case "55P03" if is_begun:
                    self._leave_out(what, f"another session holds a lock{self._holders()}")
                case "57014" if is_begun:
                    self._leave_out(what, _TOO_LONG)
                case _:
                    raise
        return None

    def _leave_out(self, what: str, reason: str) -> None:
        self.unread.append(f"{what} could not be read: {reason}")

    def _limit(self, seconds: float) -> None:
        self._cursor.execute(
            """
            SELECT set_config('statement_timeout', %(statement)s, true), set_config('lock_timeout', %(lock)s, true)
            """,
            {
                # Zero would lift the limit.
                "statement": f"{max(1.0, seconds * 1000):.0f}ms",
                "lock": f"{max(1.0, min(seconds, _LOCK_SECONDS) * 1000):.0f}ms",
            },
        )

    def _holders(self) -> str:
        """Return the tables that are locked against reading, and the server processes that hold the locks."""
        self._cursor.execute(
            """
            SELECT l.relation::regclass::text, l.pid, a.usename
            FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a USING (pid)
            WHERE l.mode = 'AccessExclusiveLock' AND l.granted AND l.relation IS NOT NULL
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) LIMIT 3
            """
        )
        held = [f"{table} (process {pid}, {user or 'unknown'})" for table, pid, user in self._cursor.fetchall()]
        return f" on {', '.join(held)}: end it with pg_terminate_backend()" if held else ""
