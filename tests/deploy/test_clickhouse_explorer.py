"""The explorer's user of deploy/clickhouse on the real engine: what it may do, and what its limits are to a search."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from deploy.clickhouse.users import bounds, fixed, profile
from tests.deploy.clickhouse_endpoint import Endpoint, empty_engine
from tests.deploy.test_clickhouse import (
    _CONSTRAINED,
    _READ_ONLY,
    _client,
    _refused,
    _store,
    engine_with_a_row,
    stored_row,
)
from towpath.eventlog.errors import LimitReached
from towpath.eventlog.query import Query
from towpath.eventlog.values import EARLIEST, TOO_LATE

__all__ = ["empty_engine", "engine_with_a_row", "stored_row"]

_ALWAYS: dict[str, Any] = {"since": EARLIEST, "until": TOO_LATE}


def test_the_explorer_searches_and_does_nothing_else(stored_row: Endpoint) -> None:
    with stored_row.as_user("towpath_explorer") as port, closing(_store(port)) as store:
        assert store.reading_problems() == []
        # More time than the user may have is the user's.
        (found,) = store.search(Query(), **_ALWAYS, rows=10, most_characters=10, seconds=60)
        assert (found.event.event_context, found.position.outbox_id) == ("a", 1)
        assert [bar.events for bar in store.histogram(Query(), **_ALWAYS, step=timedelta(hours=1), seconds=1)] == [1]
        assert store.one(found.position, seconds=0.5) == [found]
        for sql in (
            "INSERT INTO event_log (outbox) SELECT 'forged'",
            "ALTER TABLE event_log DELETE WHERE 1",
            "ALTER TABLE event_log UPDATE event_context = '' WHERE 1",
            "DELETE FROM event_log WHERE 1",
            "TRUNCATE TABLE event_log",
            "DROP TABLE event_log",
            "CREATE TABLE mine (x String) ENGINE = MergeTree ORDER BY x",
        ):
            _refused(port, sql)
        _refused(port, "SELECT * FROM event_log_migration")


def test_the_explorer_cannot_lift_its_limits(stored_row: Endpoint) -> None:
    name = "towpath_explorer"
    assert {*profile(name)} == {"readonly", *fixed(name), *bounds(name)}
    with stored_row.as_user(name) as port, closing(_client(port)) as client:
        for setting, value in profile(name).items():
            in_force = client.query("SELECT value FROM system.settings WHERE name = %s", [setting]).result_rows
            assert in_force == [(value,)]
        for setting in fixed(name):
            other = "0" if setting.startswith("cancel_") else "9"
            _refused(port, f"SELECT 1 SETTINGS {setting} = {other}", code=_CONSTRAINED)
        for seconds in ("0", "11", "1000000"):
            _refused(port, f"SELECT 1 SETTINGS max_execution_time = {seconds}", code=_CONSTRAINED)
        _refused(port, "SELECT 1 SETTINGS readonly = 0", code=_READ_ONLY)


@pytest.mark.parametrize("limit", ["max_rows_to_read=10000", "max_bytes_to_read=4000000", "max_result_rows=10000"])
def test_what_a_limit_of_the_explorer_ends_is_said_to_be_a_limit(stored_row: Endpoint, limit: str) -> None:
    """So that a page asks for a shorter period instead of calling the store away."""
    with stored_row.as_user("administrator") as port, closing(_client(port)) as client:
        names = "outbox, outbox_id, window_id, event_type, event_date_time, environment, metadata_version"
        client.command(
            f"INSERT INTO event_log ({names}, event_context)"
            f" SELECT {names}, repeat('x', 1000) FROM event_log CROSS JOIN numbers(20000) AS n"
        )
    with stored_row.as_user("towpath_explorer", f"--set={limit}") as port, closing(_store(port)) as store:
        everything = partial(store.search, Query(), **_ALWAYS, rows=100_000, seconds=5)
        with pytest.raises(LimitReached):
            everything()
