"""What ClickHouse's answers mean: its error codes, and the driver's errors without one.

Not one word of a row may leave this module: the server quotes rows in its messages.
"""

from __future__ import annotations

import re

from urllib3.exceptions import MaxRetryError, NewConnectionError

from backend.eventlog.errors import EventStoreError, OutcomeUnknown, RowsRefused, StoreUnavailable

#: Error codes of a parser or a constraint that does not take a value: the rows are at fault.
_CODES_ROWS_REFUSED = frozenset(
    {6, 25, 26, 27, 33, 38, 41, 53, 69, 70, 72, 117, 131, 321, 349, 376, 407, 457, 467, 469, 675, 676, 691}
)
#: Error codes after which the rows may be stored: timeouts, cut connections, "unknown status of insert".
_CODES_OUTCOME_UNKNOWN = frozenset({3, 159, 209, 210, 319, 394})
#: READONLY (so is every setting, for a reader) and ACCESS_DENIED.
_CODES_NO_RIGHT = frozenset({164, 497})
WHO_MAY = (
    ": the user of EVENT_STORE_URL has not the right. Workers and `pipeline verify` need that of towpath_writer,"
    " `eventlog migrate` that of towpath_migrator"
)


def translated(error: Exception) -> EventStoreError:
    """What the driver's error means for the rows of an insert."""
    code = getattr(error, "code", None)
    message = brief(error)
    if code in _CODES_ROWS_REFUSED:
        return RowsRefused(message)
    if code in _CODES_OUTCOME_UNKNOWN:
        return OutcomeUnknown(message)
    if code is None and not _never_sent(error):
        return OutcomeUnknown(message)
    # Every other code is an answer: the server did not take the insert (too many parts, no memory, no disk, read
    # only, no table, no rights). The rows stay where they are until somebody has mended it.
    return StoreUnavailable(message + who_may(error))


def who_may(error: Exception) -> str:
    """Of an answer that the user has not the right: who has it."""
    return WHO_MAY if getattr(error, "code", None) in _CODES_NO_RIGHT else ""


def _never_sent(error: Exception) -> bool:
    """True if no connection could be made, so that the server cannot have seen the insert."""
    cause = error.__cause__
    reason = cause.reason if isinstance(cause, MaxRetryError) else cause
    return isinstance(reason, NewConnectionError)


def brief(error: Exception) -> str:
    """The error without the rows that the server quotes in it: payloads do not belong in logs."""
    text = str(error)
    answer = text.split("DB::Exception: ", 1)[-1]
    first_line = answer.splitlines()[0] if answer else type(error).__name__
    for quote in (" before: ", "(at row", ": while ", ". Stack trace", ", e.what()"):
        first_line = first_line.split(quote, 1)[0]
    column = re.search(r"name: (\w+), +type: ([^,\n]+(?:, '[^']*')?\)?), +ERROR", text)
    where = f" in column {column[1]} ({column[2]})" if column else ""
    code = getattr(error, "code", None)
    return f"{first_line.strip(' :')[:300]}{where}" + (f" (code {code})" if code else "")
