"""What ClickHouse's answers mean: its error codes, and the driver's errors without one.

Not one word of a row may leave this module: the server quotes rows in its messages.
"""

from __future__ import annotations

import re

from urllib3.exceptions import MaxRetryError, NewConnectionError

from backend.eventlog.errors import (
    EventStoreError,
    OutcomeUnknown,
    RowsRefused,
    StoreUnavailable,
    WriteTooLarge,
)

#: Error codes that say nothing of the rows: the server takes none now. No table or column of that name, wrong SQL,
#: setting or password, no right, no disk, read only, too many queries or parts, no replica or Keeper, shutting down.
_CODES_UNAVAILABLE = frozenset(
    {
        *(8, 16, 46, 47, 60, 62, 63, 73, 74, 75, 76, 77, 81, 95, 96, 107, 115, 164, 172, 192, 193, 194, 195, 198, 199),
        *(201, 202, 203, 218, 224, 225, 236, 242, 243, 244, 251, 252, 254, 265, 279, 285, 286, 289, 291, 294, 301),
        *(364, 369, 373, 415, 416, 425, 439, 452, 472, 473, 479, 481, 492, 496, 497, 499, 500, 516, 571, 574, 586, 587),
        *(673, 692, 700, 712, 738, 749, 762, 771, 774, 776, 904, 999, 1016, 1019, 1020),
    }
)
#: Error codes of a limit that fewer rows may stay below: memory, rows, bytes, time for so many.
_CODES_TOO_LARGE = frozenset({158, 173, 191, 241, 307, 396})
#: The status with which a proxy refuses a body for its size. Whatever else a proxy says leaves the outcome unknown.
_TOO_LARGE = "HTTP status 413"
#: Error codes after which the insert may be running still: timeouts, cut connections, "unknown status of insert".
_CODES_OUTCOME_UNKNOWN = frozenset({3, 159, 209, 210, 319, 394})
#: READONLY (so is every setting, for a reader) and ACCESS_DENIED.
_CODES_NO_RIGHT = frozenset({164, 497})
WHO_MAY = (
    ": the user of EVENT_STORE_URL lacks a privilege. Workers and `pipeline verify` need those of towpath_writer,"
    " `eventlog migrate` those of towpath_migrator"
)


def translated(error: Exception) -> EventStoreError:
    """What the driver's error means for the rows of an insert."""
    code = getattr(error, "code", None)
    message = brief(error)
    if code is None:
        if _never_sent(error):
            return StoreUnavailable(message)
        return WriteTooLarge(message) if _TOO_LARGE in str(error) else OutcomeUnknown(message)
    if code in _CODES_OUTCOME_UNKNOWN:
        return OutcomeUnknown(message)
    if code in _CODES_TOO_LARGE:
        return WriteTooLarge(message)
    if code in _CODES_UNAVAILABLE:
        return StoreUnavailable(message + who_may(error))
    # A parser, a constraint or a view that does not take a value; a code that nobody knows is taken for one, too. That
    # blames no row: one is at fault only if the store takes others.
    return RowsRefused(message)


def who_may(error: Exception) -> str:
    """Of an answer that the user lacks a privilege: who has it."""
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
    for quote in (" before: ", "(at row", ": while ", ". Stack trace", ", e.what()", " (version ", " (for url "):
        first_line = first_line.split(quote, 1)[0]
    column = re.search(r"name: (\w+), +type: ([^,\n]+(?:, '[^']*')?\)?), +ERROR", text)
    where = f" in column {column[1]} ({column[2]})" if column else ""
    code = getattr(error, "code", None)
    return f"{first_line.strip(' :')[:300]}{where}" + (f" (code {code})" if code else "")
