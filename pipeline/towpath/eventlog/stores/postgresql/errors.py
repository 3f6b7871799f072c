"""What PostgreSQL's errors mean for a write: its SQLSTATEs, and errors of libpq that have none.

No part of a row may leave this module, although the server quotes rows in its messages.
"""

from __future__ import annotations

import re

from towpath import driver
from towpath.eventlog.errors import EventStoreError, OutcomeUnknown, RowsRefused, StoreUnavailable, WriteTooLarge
from towpath.eventlog.stores.postgresql.schema import TABLE

#: Errors of a server that stops during a statement, or does not know what became of it: admin_shutdown, crash_shutdown,
#: statement_completion_unknown.
_ENDING = frozenset({"57P01", "57P02", "40003"})

#: Limits that fewer rows may stay below: time (query_canceled), memory (out_of_memory), temporary files
#: (configuration_limit_exceeded).
_TOO_LARGE = frozenset({"57014", "53200", "53400"})

_CHECK_VIOLATION = "23514"
_DIVISION_BY_ZERO = "22012"
_READ_ONLY_TRANSACTION = "25006"
_PROGRAM_LIMIT_EXCEEDED = "54000"

#: Classes of errors that functions of other people raise, for one row or for every row.
_CLASSES_RAISED_BY_FUNCTIONS = frozenset({"P0", "38", "39"})

#: Data exceptions and violated constraints.
_CLASSES_OF_VALUES = frozenset({"22", "23"})

_READ_ONLY = (
    ": the server is a standby, or the role, the database or EVENT_STORE_URL sets default_transaction_read_only"
)


def translated(error: driver.Error) -> EventStoreError:
    """Return what an error before the commit means for the rows. Nothing is committed."""
    if driver.sqlstate(error) in _TOO_LARGE:
        return WriteTooLarge(brief(error))
    return _refused(error) or StoreUnavailable(brief(error))


def translated_of_commit(error: driver.Error) -> EventStoreError:
    """Return what an error of the last message, which stores the rows and commits, means for the rows."""
    code = driver.sqlstate(error)
    if is_partition_missing(error):
        return StoreUnavailable("a month's partition was removed; it is created again")
    if code == _DIVISION_BY_ZERO:
        return StoreUnavailable(f"a trigger on {TABLE} or on one of its partitions leaves out rows: drop the trigger")
    # Without an answer, or if the server is stopping, the commit may have happened.
    if not code or code.startswith("08") or code in _ENDING:
        return OutcomeUnknown(brief(error))
    return translated(error)


def lacking(error: driver.Error, *, user: str) -> str:
    """Return which role lacks a privilege for retention or erasure, and what it needs. It is empty for any other
    error."""
    if not driver.is_privilege_missing(error):
        return ""
    return (
        f". {f'User {user}' if user else 'The user'} of EVENT_STORE_URL lacks a privilege: `eventlog retain` needs the"
        f" owner of {TABLE}, `eventlog erase` needs UPDATE on it (docs/proof.md)"
    )


def is_limit(error: driver.Error) -> bool:
    """True if the statement has reached a limit of its own or of the role."""
    return driver.sqlstate(error) in _TOO_LARGE


def is_partition_missing(error: driver.Error) -> bool:
    """True if a row has no partition."""
    return driver.sqlstate(error) == _CHECK_VIOLATION and not error.diag.constraint_name


def brief(error: driver.Error) -> str:
    """Return the error in one line, without the details, in which the server quotes rows."""
    text = (error.diag.message_primary or str(error)).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return line + _READ_ONLY * (driver.sqlstate(error) == _READ_ONLY_TRANSACTION)


def _refused(error: driver.Error) -> RowsRefused | None:
    """Return RowsRefused if the rows are at fault, otherwise None. Its text quotes no part of a row."""
    code = driver.sqlstate(error)
    if code[:2] in _CLASSES_RAISED_BY_FUNCTIONS:
        # The function's own message is left out: it may quote the row.
        return RowsRefused(f"a trigger on {TABLE} or on one of its partitions raises an error (code {code})")
    # PROGRAM_LIMIT_EXCEEDED: a value is too large for an index.
    if code[:2] not in _CLASSES_OF_VALUES and code != _PROGRAM_LIMIT_EXCEEDED:
        return None
    message = re.sub(r'".*"', '"..."', brief(error), flags=re.DOTALL)
    place = re.search(r"line \d+(?:, column \w+)?", error.diag.context or "")
    constraint = f" ({error.diag.constraint_name})" if error.diag.constraint_name else ""
    return RowsRefused(f"{message}{constraint}" + (f" in {place[0]}" if place else "") + f" (code {code})")
