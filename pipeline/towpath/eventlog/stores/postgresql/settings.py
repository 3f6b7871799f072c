"""PostgreSQL's settings that change what our statements mean. Every session has them, whatever role, database and
server set; behind a pooler, every transaction.
"""

from __future__ import annotations

_SETTINGS = {
    "TimeZone": "'UTC'",
    "DateStyle": "'ISO, YMD'",
    "IntervalStyle": "'postgres'",
    "standard_conforming_strings": "on",
    # A policy that would leave rows out is an error.
    "row_security": "off",
    "default_table_access_method": "'heap'",
    "client_min_messages": "warning",
}
#: A server where commits need not be on disk is asked for ours to be.
_ADJUSTED = """
SELECT set_config('transaction_timeout', '0', {is_local})
WHERE current_setting('transaction_timeout', true) IS NOT NULL;
SELECT set_config('synchronous_commit', 'on', {is_local}) WHERE current_setting('synchronous_commit') = 'off';
"""


def of_session(*, timeout_seconds: float) -> tuple[str, str]:
    """The two messages that a session of ours starts with.

    The first stands by itself: the role's own limit would apply to all that is sent with it.
    """
    limits = _limits(timeout_seconds)
    statement_timeout = limits.pop("statement_timeout")
    settings = {**_SETTINGS, **limits, "default_transaction_isolation": "'read committed'"}
    assignments = "".join(f"SET {name} = {value};" for name, value in settings.items())
    return f"SET statement_timeout = {statement_timeout}", assignments + _ADJUSTED.format(is_local="false")


def of_transaction(*, timeout_seconds: float) -> str:
    """The message that begins a transaction in a session that belongs to a pooler, and leaves nothing in it."""
    settings = {**_SETTINGS, **_limits(timeout_seconds)}
    assignments = "".join(f"SET LOCAL {name} = {value};" for name, value in settings.items())
    return f"BEGIN ISOLATION LEVEL READ COMMITTED; {assignments} {_ADJUSTED.format(is_local='true')}"


def _limits(timeout_seconds: float) -> dict[str, str]:
    milliseconds = max(1000, int(timeout_seconds * 1000))
    return {
        # The server gives up before we do: a statement must not go on when nobody waits for it any more.
        "statement_timeout": str(milliseconds * 8 // 10),
        # Less, so that a table that is locked is not taken for a statement that takes too long.
        "lock_timeout": str(milliseconds * 6 // 10),
        # A process that stands still must not keep a transaction open.
        "idle_in_transaction_session_timeout": str(milliseconds),
    }
