"""What PostgreSQL's answers mean: its SQLSTATEs, and libpq's errors without one.

Not one word of a row may leave this module: the server quotes rows in its messages.
"""

from __future__ import annotations

import re

import psycopg2
from psycopg2 import errorcodes

from towpath.eventlog.errors import EventStoreError, OutcomeUnknown, RowsRefused, StoreUnavailable, WriteTooLarge
from towpath.eventlog.stores.postgresql.schema import TABLE

#: Errors of a server that ends while it works at a statement, or does not know itself what became of it.
_ENDING = frozenset({errorcodes.ADMIN_SHUTDOWN, errorcodes.CRASH_SHUTDOWN, errorcodes.STATEMENT_COMPLETION_UNKNOWN})

#: Limits that fewer rows may stay below: of time, of memory, of temporary files.
_TOO_LARGE = frozenset({errorcodes.QUERY_CANCELED, errorcodes.OUT_OF_MEMORY, errorcodes.CONFIGURATION_LIMIT_EXCEEDED})

#: Classes of errors that functions of somebody else's raise, for a row or for each.
_CLASSES_RAISED_BY_FUNCTIONS = frozenset({"P0", "38", "39"})

#: Data exceptions and violated constraints.
_CLASSES_OF_VALUES = frozenset({"22", "23"})

_READ_ONLY = ": the server is a standby, or role, database or EVENT_STORE_URL set default_transaction_read_only"


def translated(error: psycopg2.Error) -> EventStoreError:
    """What an error means that came before the commit was asked for: nothing is committed."""
    if error.pgcode in _TOO_LARGE:
        return WriteTooLarge(brief(error))
    return _refused(error) or StoreUnavailable(brief(error))


def translated_of_commit(error: psycopg2.Error) -> EventStoreError:
    """What an error of the message means that stores the rows and commits."""
    code = error.pgcode or ""
    if is_partition_missing(error):
        return StoreUnavailable("a month's partition has been taken away; it is created again")
    if code == errorcodes.DIVISION_BY_ZERO:
        return StoreUnavailable(f"a trigger on {TABLE} or on a partition of it leaves rows out: drop the trigger")
    # Without an answer, or with one that the server gives when it ends, the commit may have been done.
    if not code or code.startswith("08") or code in _ENDING:
        return OutcomeUnknown(brief(error))
    return translated(error)


def is_partition_missing(error: psycopg2.Error) -> bool:
    """True if no partition takes a row."""
    return error.pgcode == errorcodes.CHECK_VIOLATION and not error.diag.constraint_name


def brief(error: psycopg2.Error) -> str:
    """The error without its details, in which the server quotes rows."""
    text = (error.diag.message_primary or str(error)).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return line + _READ_ONLY * (error.pgcode == errorcodes.READ_ONLY_SQL_TRANSACTION)


def _refused(error: psycopg2.Error) -> RowsRefused | None:
    """RowsRefused if the rows are at fault; its text quotes nothing of them."""
    code = error.pgcode or ""
    if code[:2] in _CLASSES_RAISED_BY_FUNCTIONS:
        # In words of its own, which may quote the row.
        return RowsRefused(f"a trigger on {TABLE} or on a partition of it raises an error (code {code})")
    # The last is a value too large for an index.
    if code[:2] not in _CLASSES_OF_VALUES and code != errorcodes.PROGRAM_LIMIT_EXCEEDED:
        return None
    message = re.sub(r'".*"', '"..."', brief(error), flags=re.DOTALL)
    place = re.search(r"line \d+(?:, column \w+)?", error.diag.context or "")
    constraint = f" ({error.diag.constraint_name})" if error.diag.constraint_name else ""
    return RowsRefused(f"{message}{constraint}" + (f" in {place[0]}" if place else "") + f" (code {code})")
