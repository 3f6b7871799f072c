"""Shared buffers of each of the product's own statements: what it reads, whatever the machine's load.

PostgreSQL counts for a session how many pages it has fetched of each table and index, found in shared memory or not.
The difference before and after a statement is the statement's own: with what the planner looked up, with the triggers
of foreign keys, and of COPY as of any other. Nothing is explained or run twice, so that what is measured is what
happens.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.db import connection
from django.db.backends.postgresql import base

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

#: Messages that read no table. SET TRANSACTION would come too late after a count, even where more follows it.
_READS_NOTHING = re.compile(r"\s*(BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|SET TRANSACTION)\b[^;]*;?\s*$", re.IGNORECASE)
_IS_FIRST = re.compile(r"\s*SET TRANSACTION\b", re.IGNORECASE)

#: The class of the driver that Django has chosen.
_Cursor: Any = base.Cursor

#: As libpq numbers what a connection's `info` says.
_IDLE = 0

#: They read for others of the product, and say nothing by their own names.
_HELPERS = frozenset({"towpath.driver", "towpath.ledger.moment"})


@dataclass(slots=True)
class Buffers:
    """What was read, by what was done (`during`) and by the function of the product whose statements read it.

    A function that runs several statements counts them together.
    """

    #: The pages of each table and index.
    by_relation: dict[str, Counter[str]] = field(default_factory=dict)
    #: What is measured now; empty: nothing is.
    doing: str = ""

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Inside, statements are measured as part of this."""
        self.doing = what
        try:
            yield
        finally:
            self.doing = ""

    def add(self, function: str, found: Mapping[str, int]) -> None:
        """A statement of this function has read these pages."""
        self.by_relation.setdefault(f"{self.doing}: {function}", Counter()).update(found)

    @property
    def totals(self) -> dict[str, int]:
        """The pages of each function, of all tables and indexes together."""
        return {name: found.total() for name, found in self.by_relation.items()}

    def by_doing(self) -> dict[str, int]:
        """The pages of all that was read `during` each thing."""
        found: Counter[str] = Counter()
        for name, pages in self.totals.items():
            found[name.rpartition(": ")[0]] += pages
        return dict(found)

    def most_read(self, name: str) -> str:
        """The table or index that the function reads most of."""
        relation, pages = self.by_relation[name].most_common(1)[0]
        return f"{pages} of {relation}"


#: The least that is called growth: an index has one level more, now and then, and a row is on a page of its own.
FEW_PAGES = 5


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """What reads more than twice what it read before: how much then, and now."""
    return {
        name: (before[name], now)
        for name, now in after.items()
        if now > max(2 * before[name], before[name] + FEW_PAGES)
    }


@contextlib.contextmanager
def measuring() -> Iterator[Buffers]:
    """Measure the product's statements `during` what one says, on this thread's connection, as long as that stays."""
    connection.ensure_connection()
    raw = connection.connection
    buffers = Buffers()
    relations = _relations()
    with connection.cursor() as cursor:
        # The pages that a parallel worker reads are counted as the worker's.
        cursor.execute("SET max_parallel_workers_per_gather = 0")
    before = raw.cursor_factory
    raw.cursor_factory = _cursor_that_measures(buffers, relations)
    try:
        yield buffers
    finally:
        raw.cursor_factory = before
        with connection.cursor() as cursor:
            cursor.execute("RESET max_parallel_workers_per_gather")


def _relations() -> dict[int, str]:
    """Every table and index of the database, by its oid, with what is kept apart of a table's large values."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT c.oid, coalesce(owner.relname || ' (large values)', c.relname) FROM pg_class AS c
            LEFT JOIN pg_class AS owner ON owner.reltoastrelid = c.oid
            WHERE c.relkind IN ('r', 'i', 't', 'm') AND (c.relnamespace = 'public'::regnamespace OR owner.oid IN (
                SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace))
            """
        )
        return dict(cursor.fetchall())


def _cursor_that_measures(buffers: Buffers, relations: Mapping[int, str]) -> type[Any]:
    class MeasuringCursor(_Cursor):  # type: ignore[misc]
        """Of the driver itself: psycopg2's COPY goes past Django's cursor. Each driver calls its own COPY."""

        def execute(self, query: Any, *parameters: Any, **options: Any) -> Any:
            with _measured(self.connection, query, buffers, relations):
                return super().execute(query, *parameters, **options)

        def copy_expert(self, sql: Any, *arguments: Any, **options: Any) -> None:
            with _measured(self.connection, sql, buffers, relations):
                super().copy_expert(sql, *arguments, **options)

        @contextlib.contextmanager
        def copy(self, statement: Any, *parameters: Any, **options: Any) -> Iterator[Any]:
            with (
                _measured(self.connection, statement, buffers, relations),
                super().copy(statement, *parameters, **options) as copying,
            ):
                yield copying

    return MeasuringCursor


@contextlib.contextmanager
def _measured(raw: Any, sql: Any, buffers: Buffers, relations: Mapping[int, str]) -> Iterator[None]:
    """What is done inside is this statement, on this connection of the driver's."""
    text = sql.decode() if isinstance(sql, bytes) else str(sql)
    function = _function_of_the_product(sys._getframe())
    if not buffers.doing or function is None or _READS_NOTHING.match(text):
        yield
        return
    # One that is not measured.
    cursor = _Cursor(raw)
    # The counts are the session's own until the transaction ends, so there must be one.
    is_own = raw.autocommit and raw.info.transaction_status == _IDLE
    if is_own:
        # What was counted before goes to the server's statistics now, and the count begins at nothing.
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute("BEGIN")
    try:
        before = Counter[str]() if _IS_FIRST.match(text) else _fetched(cursor, relations)
        yield
        after = _fetched(cursor, relations)
    except BaseException:
        if is_own:
            cursor.execute("ROLLBACK")
        raise
    if is_own:
        cursor.execute("COMMIT")
    buffers.add(function, after - before)


def _fetched(cursor: Any, relations: Mapping[int, str]) -> Counter[str]:
    cursor.execute(
        """
        SELECT oid, fetched FROM unnest(%s::oid[]) AS oid, pg_stat_get_xact_blocks_fetched(oid) AS fetched
        WHERE fetched > 0
        """,
        [list(relations)],
    )
    return Counter({relations[oid]: fetched for oid, fetched in cursor.fetchall()})


def _function_of_the_product(frame: FrameType | None) -> str | None:
    """The innermost public function of the product under way, without the name of the package; None if none is."""
    while frame is not None:
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if module.startswith("towpath.") and module not in _HELPERS and not name.startswith(("_", "<")):
            return f"{module.removeprefix('towpath.')}.{name}"
        frame = frame.f_back
    return None
