"""What PostgreSQL's answers mean: its SQLSTATEs, and libpq's errors without one.

Not one word of a row may leave this module: the server quotes rows in its messages.
"""

from __future__ import annotations

import re

from towpath import driver
from towpath.eventlog.errors import EventStoreError, OutcomeUnknown, RowsRefused, StoreUnavailable, WriteTooLarge
from towpath.eventlog.stores.postgresql.schema import TABLE

#: Errors of a server that ends while it works at a statement, or does not know itself what became of it.
#: admin_shutdown, crash_shutdown, statement_completion_unknown.
_ENDING = frozenset({"57P01", "57P02", "40003"})

#: Limits that fewer rows may stay below: of time (query_canceled), of memory (out_of_memory), of temporary files
#: (configuration_limit_exceeded).
_TOO_LARGE = frozenset({"57014", "53200", "53400"})

_CHECK_VIOLATION = "23514"
_DIVISION_BY_ZERO = "22012"
_READ_ONLY_TRANSACTION = "25006"
_PROGRAM_LIMIT_EXCEEDED = "54000"
_INSUFFICIENT_PRIVILEGE = "42501"

#: Classes of errors that functions of somebody else's raise, for a row or for each.
_CLASSES_RAISED_BY_FUNCTIONS = frozenset({"P0", "38", "39"})

#: Data exceptions and violated constraints.
_CLASSES_OF_VALUES = frozenset({"22", "23"})

_READ_ONLY = ": the server is a standby, or role, database or EVENT_STORE_URL set default_transaction_read_only"


def translated(error: driver.Error) -> EventStoreError:
    """What an error means that came before the commit was asked for: nothing is committed."""
    if driver.sqlstate(error) in _TOO_LARGE:
        return WriteTooLarge(brief(error))
    return _refused(error) or StoreUnavailable(brief(error))


def translated_of_commit(error: driver.Error) -> EventStoreError:
    """What an error of the message means that stores the rows and commits."""
    code = driver.sqlstate(error)
    if is_partition_missing(error):
        return StoreUnavailable("a month's partition has been taken away; it is created again")
    if code == _DIVISION_BY_ZERO:
        return StoreUnavailable(f"a trigger on {TABLE} or on a partition of it leaves rows out: drop the trigger")
    # Without an answer, or with one that the server gives when it ends, the commit may have been done.
    if not code or code.startswith("08") or code in _ENDING:
        return OutcomeUnknown(brief(error))
    return translated(error)


def lacking(error: driver.Error, *, user: str) -> str:
    """Of an answer that the role lacks a privilege for retention or erasure: which role that is, and what it needs."""
    if driver.sqlstate(error) != _INSUFFICIENT_PRIVILEGE:
        return ""
    return (
        f". User {user or 'of the system'} of EVENT_STORE_URL lacks a privilege: `eventlog retain` needs the owner of"
        f" {TABLE}, `eventlog erase` needs UPDATE on it (docs/proof.md)"
    )


def is_partition_missing(error: driver.Error) -> bool:
    """True if no partition takes a row."""
    return driver.sqlstate(error) == _CHECK_VIOLATION and not error.diag.constraint_name


def brief(error: driver.Error) -> str:
    """The error without its details, in which the server quotes rows."""
    text = (error.diag.message_primary or str(error)).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return line + _READ_ONLY * (driver.sqlstate(error) == _READ_ONLY_TRANSACTION)


def _refused(error: driver.Error) -> RowsRefused | None:
    """RowsRefused if the rows are at fault; its text quotes nothing of them."""
    code = driver.sqlstate(error)
    if code[:2] in _CLASSES_RAISED_BY_FUNCTIONS:
        # In words of its own, which may quote the row.
        return RowsRefused(f"a trigger on {TABLE} or on a partition of it raises an error (code {code})")
    # The last is a value too large for an index.
    if code[:2] not in _CLASSES_OF_VALUES and code != _PROGRAM_LIMIT_EXCEEDED:
        return None
    message = re.sub(r'".*"', '"..."', brief(error), flags=re.DOTALL)
    place = re.search(r"line \d+(?:, column \w+)?", error.diag.context or "")
    constraint = f" ({error.diag.constraint_name})" if error.diag.constraint_name else ""
    return RowsRefused(f"{message}{constraint}" + (f" in {place[0]}" if place else "") + f" (code {code})")
