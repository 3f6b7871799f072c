"""PostgreSQL's settings that change what our statements mean. They are set in every session, whatever the role, the
database and the server set. Behind a pooler, they are set in every transaction.
"""

from __future__ import annotations

_SETTINGS = {
    "TimeZone": "'UTC'",
    "DateStyle": "'ISO, YMD'",
    "IntervalStyle": "'postgres'",
    "standard_conforming_strings": "on",
    # Turns a policy that would hide rows into an error.
    "row_security": "off",
    "default_table_access_method": "'heap'",
    "client_min_messages": "warning",
}
#: Settings that depend on the server: not every version has transaction_timeout, and synchronous_commit is only changed
#: if it is off, so that our commits are on disk.
_ADJUSTED = """
SELECT set_config('transaction_timeout', '0', {is_local})
WHERE current_setting('transaction_timeout', true) IS NOT NULL;
SELECT set_config('synchronous_commit', 'on', {is_local}) WHERE current_setting('synchronous_commit') = 'off';
"""


def of_session(*, timeout_seconds: float) -> tuple[str, str]:
    """Return the two messages that a session starts with.

    The first has only the time limit: until it has run, the role's own limit applies to everything in its message.
    """
    limits = _limits(timeout_seconds)
    statement_timeout = limits.pop("statement_timeout")
    settings = {**_SETTINGS, **limits, "default_transaction_isolation": "'read committed'"}
    assignments = "".join(f"SET {name} = {value};" for name, value in settings.items())
    return f"SET statement_timeout = {statement_timeout}", assignments + _ADJUSTED.format(is_local="false")


def of_transaction(*, timeout_seconds: float) -> str:
    """Return the message that begins a transaction in a pooler's session. Its settings end with the transaction."""
    settings = {**_SETTINGS, **_limits(timeout_seconds)}
    assignments = "".join(f"SET LOCAL {name} = {value};" for name, value in settings.items())
    return f"BEGIN ISOLATION LEVEL READ COMMITTED; {assignments} {_ADJUSTED.format(is_local='true')}"


def of_reading(*, milliseconds: int) -> str:
    """Return the settings for a transaction that reads, each statement of which may take `milliseconds`."""
    # A search has many small expressions and returns few rows: compiling them takes longer than running them.
    return f"SET LOCAL statement_timeout = {milliseconds}; SET LOCAL jit = off"


def _limits(timeout_seconds: float) -> dict[str, str]:
    milliseconds = max(1000, int(timeout_seconds * 1000))
    return {
        # The server gives up before we do: a statement must not continue when nobody waits for it.
        "statement_timeout": str(milliseconds * 8 // 10),
        # Shorter, so that a locked table is not mistaken for a slow statement.
        "lock_timeout": str(milliseconds * 6 // 10),
        # A stalled process must not keep a transaction open.
        "idle_in_transaction_session_timeout": str(milliseconds),
    }
