"""What an error of PostgreSQL means to a person: it does not answer, it is not migrated, or it refuses something.

Only an outage is called one. Values that an error quotes (a row, a key, a statement) are left out.
"""

from __future__ import annotations

from django.db import InterfaceError, OperationalError

from towpath.driver import sqlstate
from towpath.telemetry.secrets import without_secrets

#: SQLSTATE classes and codes for an unreachable server: connection exceptions, too many connections, shutting down,
#: crashed, starting up.
_AWAY = ("08", "53300", "57P01", "57P02", "57P03")
_NOT_MIGRATED = ("42P01", "42703", "3F000")
#: A statement that took too long, or a lock that another session holds.
_TOO_LATE = ("57014", "55P03", "25P03")


def describe(error: Exception) -> str:
    """Return one line for a person: what is wrong with PostgreSQL, and what to do about it."""
    state = sqlstate(error)
    if is_outage(error):
        return f"PostgreSQL does not answer: {first_line(error)}"
    if is_not_migrated(error):
        return f"The database is not migrated: run `python manage.py migrate` ({first_line(error)})"
    if state in _TOO_LATE:
        return f"PostgreSQL takes too long, or another session holds a lock: see pg_stat_activity ({first_line(error)})"
    return f"PostgreSQL answers but refuses: {type(error).__name__} {first_line(error)}"


def is_outage(error: Exception) -> bool:
    """True if PostgreSQL cannot be reached."""
    state = sqlstate(error)
    if state:
        return state.startswith(_AWAY)
    # An error of libpq itself, without an answer from the server.
    return isinstance(error, (OperationalError, InterfaceError))


def is_not_migrated(error: Exception) -> bool:
    """True if a table or a column does not exist."""
    return sqlstate(error) in _NOT_MIGRATED


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, without secrets: the lines after it quote values."""
    return without_secrets(str(error).strip().partition("\n")[0]) or type(error).__name__
