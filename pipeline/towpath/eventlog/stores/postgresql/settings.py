"""PostgreSQL's settings that change what our statements mean. Every session starts with them, whatever role, database
and server set.
"""

from __future__ import annotations

#: A server where commits need not be on disk is asked for ours to be. A session of a process that stands still must
#: not keep a transaction open. With `row_security` off, a policy that would leave rows out is an error. Without a
#: schema, nothing else would say why there is no table.
_SET_UP = """
SET TIME ZONE 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET standard_conforming_strings = on;
SET row_security = off;
SET default_transaction_isolation = 'read committed';
SET default_table_access_method = 'heap';
SET lock_timeout = {lock_milliseconds};
SELECT set_config('transaction_timeout', '0', false) WHERE current_setting('transaction_timeout', true) IS NOT NULL;
SET client_min_messages = warning;
SET idle_in_transaction_session_timeout = {idle_milliseconds};
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
SELECT current_schema(), current_setting('search_path');
"""


def set_up(*, timeout_seconds: float) -> tuple[str, str]:
    """The two messages that a session starts with; the second answers with the schema and the search_path.

    The first stands by itself: the role's own limit would apply to all that is sent with it.
    """
    milliseconds = max(1000, int(timeout_seconds * 1000))
    # The server gives up before we do: a statement must not go on when nobody waits for it any more.
    limit = f"SET statement_timeout = {milliseconds * 8 // 10}"
    return limit, _SET_UP.format(
        # Less, so that a table that is locked is not taken for a statement that takes too long.
        lock_milliseconds=milliseconds * 6 // 10,
        idle_milliseconds=milliseconds,
    )
