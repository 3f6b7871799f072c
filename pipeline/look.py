"""A look at the ledger, for people and machines that ask: all that is read in it is of one moment.

Also inside of somebody's transaction (a test's, that of a request with ATOMIC_REQUESTS), which is left as it was: then
its own snapshots are what is read.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from django.db import connection, transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.backends.utils import CursorWrapper


_BY_INDEX = "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"


@contextlib.contextmanager
def one_moment(*, by_index: bool = True) -> Iterator[CursorWrapper]:
    """A cursor that reads the ledger at one moment; by index scans, unless asked otherwise: a sequential one would read
    every receipt, or all the empty pages that a backlog has left behind."""
    is_inside = connection.in_atomic_block or not connection.get_autocommit()
    with transaction.atomic():
        if not is_inside:
            # Past Django's cursor: a wrapper that puts a statement of its own before each would make it come too late.
            with connection.connection.cursor() as raw:
                raw.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        with connection.cursor() as cursor:
            if by_index:
                cursor.execute(_BY_INDEX)
            yield cursor
        if is_inside:
            # With the savepoint ends what was set for its time, and the transaction goes on with its own settings.
            transaction.set_rollback(True)
