"""What ClickHouse's errors mean for a write: its error codes, and errors of the driver that have no code.

No part of a row may leave this module, although the server quotes rows in its messages.
"""

from __future__ import annotations

import re

from urllib3.exceptions import MaxRetryError, NewConnectionError

from towpath.eventlog.errors import (
    EventStoreError,
    OutcomeUnknown,
    RowsRefused,
    StoreUnavailable,
    WriteTooLarge,
)

#: Error codes that say nothing about the rows: the server takes no rows now. A table or column is missing; SQL, a
#: setting or the password is wrong; the user lacks a privilege; the disk is full or read-only; there are too many
#: queries or parts; there is no replica or Keeper; the server is starting, overloaded or shutting down.
# fmt: off
_CODES_UNAVAILABLE = frozenset({
    8, 16, 23, 24, 46, 47, 60, 62, 63, 73, 74, 75, 76, 77, 81, 83, 84, 87, 88, 95, 96, 107, 113, 115, 164, 172, 192,
    193, 194, 195, 198, 199, 201, 202, 203, 204, 214, 216, 217, 218, 224, 225, 230, 232, 234, 235, 236, 239, 240, 242,
    243, 244, 251, 252, 253, 254, 255, 256, 265, 266, 272, 273, 274, 275, 279, 285, 286, 289, 291, 294, 297, 298, 299,
    301, 305, 308, 342, 364, 369, 372, 373, 384, 400, 402, 405, 410, 411, 412, 415, 416, 424, 425, 439, 452, 454, 458,
    460, 461, 463, 472, 473, 479, 481, 492, 495, 496, 497, 499, 500, 504, 516, 519, 521, 529, 531, 532, 566, 568, 571,
    573, 574, 576, 586, 587, 592, 593, 635, 649, 662, 667, 668, 672, 673, 674, 678, 679, 692, 693, 694, 695, 696, 700,
    707, 710, 711, 712, 720, 722, 733, 737, 738, 740, 741, 744, 745, 747, 749, 759, 761, 762, 763, 764, 767, 771, 774,
    775, 776, 780, 900, 901, 902, 903, 904, 905, 999, 1000, 1001, 1002, 1004, 1005, 1008, 1009, 1015, 1016, 1019,
    1020,
})
# fmt: on
#: Error codes for a limit that fewer rows may stay below: memory, rows, bytes, or the time for them.
_CODES_TOO_LARGE = frozenset({158, 160, 173, 191, 241, 307, 396, 777, 778})
#: Error codes of a statement that reads, and has reached a limit of the user: rows, bytes, time, speed, memory, a set's
#: size, partitions.
CODES_OF_LIMITS = frozenset({158, 159, 160, 191, 241, 307, 396, 565})
#: The status with which a proxy refuses a body for its size. Any other answer of a proxy leaves the outcome unknown.
_TOO_LARGE = "HTTP status 413"
#: Error codes after which the insert may still be running: timeouts, cut connections, "unknown status of insert", or
#: errors from another server to which this one has forwarded the insert.
_CODES_OUTCOME_UNKNOWN = frozenset({3, 86, 159, 209, 210, 319, 394, 659, 677, 734, 735, 1014, 1017, 1018})
#: READONLY (a read-only profile may change no setting) and ACCESS_DENIED.
_CODES_NO_RIGHT = frozenset({164, 497})
#: FUNCTION_THROW_IF_VALUE_IS_NON_ZERO: the author of the view wrote the message.
_THROW_IF = 395
#: Messages of the parser that quote no value.
_QUOTES_NO_VALUE = re.compile(
    r"(?:Code: \d+. DB::Exception: )?"
    r"(?:Cannot parse input: expected '\S{1,2}'|Cannot (?:read|parse) DateTime(?:: unexpected word)?)"
)
_WHO_NEEDS_WHICH_PRIVILEGES = (
    "Workers need the privileges of towpath_writer in EVENT_STORE_URL. Verification needs those of towpath_verifier"
    " in EVENT_STORE_VERIFIER_URL. The explorer needs those of towpath_explorer in EVENT_STORE_EXPLORER_URL."
    " `eventlog migrate` needs those of towpath_migrator. `eventlog retain` and `eventlog erase` need those of"
    " towpath_keeper (docs/proof.md)."
)


def translated(error: Exception, *, user: str = "") -> EventStoreError:
    """Return what the driver's error means for the rows of an insert. `user` is the user who ran it."""
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
        return StoreUnavailable(message + lacking(error, user=user))
    # A parser, a constraint or a view does not take a value. An unknown code is treated the same way. That blames no
    # row: a row is at fault only if the store takes others.
    return RowsRefused(_without_values(error))


def lacking(error: Exception, *, user: str) -> str:
    """Return which user lacks a privilege, and whose privileges are needed. It is empty for any other error."""
    return f". {lacks(user, 'a privilege')}" if getattr(error, "code", None) in _CODES_NO_RIGHT else ""


def lacks(user: str, what: str) -> str:
    """Return a sentence that says what the user lacks, and whose privileges are needed."""
    return f"User {user or 'default'} of the event store lacks {what}. {_WHO_NEEDS_WHICH_PRIVILEGES}"


def _never_sent(error: Exception) -> bool:
    """True if no connection could be made, so that the server cannot have seen the insert."""
    cause = error.__cause__
    reason = cause.reason if isinstance(cause, MaxRetryError) else cause
    return isinstance(reason, NewConnectionError)


def _without_values(error: Exception) -> str:
    """Return the error for a value that is refused. The server may quote the value anywhere in its message, so only
    known messages are passed on."""
    line = _first_line(error)
    constraint = re.match(r"Constraint (?:`[^`]+`|\w+) for table \S+", line)
    if constraint:
        line = f"{constraint[0]} is violated"
    elif not (_QUOTES_NO_VALUE.fullmatch(line) or getattr(error, "code", None) == _THROW_IF):
        line = getattr(error, "name", None) or "a value is refused"
    view = re.search(r"while pushing to view ([\w.]*\w)", str(error))
    return line + (f" in the view {view[1]}" if view else "") + _where(error)


def brief(error: Exception) -> str:
    """Return the error in one line, without the rows that the server quotes in it: payloads do not belong in logs."""
    return _first_line(error) + _where(error)


def _first_line(error: Exception) -> str:
    text = str(error)
    answer = text.split("DB::Exception: ", 1)[-1]
    first_line = answer.splitlines()[0] if answer else type(error).__name__
    for quote in (" before: ", "(at row", ": while ", ". Stack trace", ", e.what()", " (version ", " (for url "):
        first_line = first_line.split(quote, 1)[0]
    return first_line.strip(" :")[:300]


def _where(error: Exception) -> str:
    column = re.search(r"name: (\w+), +type: ([^,\n]+(?:, '[^']*')?\)?), +ERROR", str(error))
    where = f" in column {column[1]} ({column[2]})" if column else ""
    code = getattr(error, "code", None)
    return where + (f" (code {code})" if code else "")
