"""`eventlog compare`: the event log against the table that the old code keeps writing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from django.core.management import CommandError, call_command

from tests.clickhouse import client_of, url_of
from tests.integration.manage import here, manage
from tests.integration.rows import write_events
from tests.integration.windows import deliver, sealed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clickhouse_connect.driver.client import Client

    from tests.services import Services
    from towpath.eventlog.store import EventStore

#: As somebody else has made it: other types, other columns, another order.
CREATE_OLD_LOG = """
CREATE TABLE old.log (
    event_context String, event_type LowCardinality(String), event_date_time DateTime('Europe/Berlin')
) ENGINE = MergeTree ORDER BY event_date_time
"""
DAY = ("--since", "2026-03-04", "--until", "2026-03-05")
#: `write_events` says so by itself: 05:06:07.123456.
HOUR = "2026-03-04T05:00:00+00:00"


@pytest.fixture
def old_log(services: Services) -> Iterator[Client]:
    client = client_of(services.clickhouse)
    client.command("CREATE DATABASE IF NOT EXISTS old")
    client.command("DROP TABLE IF EXISTS old.log")
    client.command(CREATE_OLD_LOG)
    yield client
    client.command("DROP DATABASE old")
    client.close()


def insert(client: Client, *contexts: str, second: int = 6) -> None:
    """As the old code does: immediately, and by its own clock."""
    at = datetime(2026, 3, 4, 5, 6, second, tzinfo=UTC)
    columns = ["event_context", "event_type", "event_date_time"]
    client.insert("log", [[context, "tested", at] for context in contexts], database="old", column_names=columns)


def compare(*arguments: str) -> tuple[dict[str, Any], int]:
    """What it prints, and its exit code."""
    out = StringIO()
    try:
        call_command("eventlog", "compare", "--with", "old.log", "--json", *arguments, stdout=out)
    except SystemExit as error:
        return json.loads(out.getvalue()), int(str(error))
    return json.loads(out.getvalue()), 0


def test_equal_logs_are_equal(store: EventStore, old_log: Client) -> None:
    contexts = ["{}", "{}", '{"a":"\\t\\u0001 é 😀 \\\\"}', "a\tb\n\\N'`"]
    write_events(contexts)
    deliver(sealed(), store)
    insert(old_log, *contexts)

    found, exit_code = compare(*DAY)

    assert exit_code == 0
    assert found["is_equal"]
    assert found["hours"] == [{"event_type": "tested", "hour": HOUR, "here": 4, "there": 4}]
    assert found["differences"] == []


def test_differences_are_found_in_both_directions(store: EventStore, old_log: Client) -> None:
    write_events(["{}", '{"n":1}', '{"n":2}', '{"n":2}'])
    deliver(sealed(), store)
    insert(old_log, "{}", '{"n":2}', '{"n":3}', second=8)

    found, exit_code = compare(*DAY)

    assert exit_code == 1
    assert not found["is_equal"]
    assert found["hours"] == [{"event_type": "tested", "hour": HOUR, "here": 4, "there": 3}]
    assert found["missing"] == {"here": 2, "there": 1}
    here, there = "2026-03-04T05:06:07.123456+00:00", "2026-03-04T05:06:08+00:00"
    assert sorted((one["side"], one["at"], one["md5"], one["rows"]) for one in found["differences"]) == [
        ("here", here, "082c26c8a6bc75226a31da5495cc9292", 1),
        ("here", here, "fa3f212516c45c713781b9dae87824a9", 1),
        ("there", there, "4878c556bc656228125612763e3fe150", 1),
    ]


def test_the_period_is_what_was_asked_for(store: EventStore, old_log: Client) -> None:
    write_events(["{}"])
    deliver(sealed(), store)
    insert(old_log, "{}")

    assert compare("--since", "2026-03-04T05:06:07", "--until", "2026-03-04T05:07")[1] == 0
    # The old log's clock was a second behind: it has the event outside of the period, within the slack.
    assert compare("--since", "2026-03-04T05:06:07", "--until", "2026-03-04T05:07", "--slack-seconds", "0.5")[1] == 1
    assert compare("--since", "2026-03-05", "--until", "2026-03-06")[1] == 1
    assert compare("--until", "2026-03-04T06:00:00+01:00")[1] == 1
    assert compare("--until", "2026-03-04T06:07:00+01:00")[1] == 0


def test_the_table_for_people_names_the_differences_and_shows_no_payload(store: EventStore, old_log: Client) -> None:
    write_events(['{"secret":"hunter2"}'])
    deliver(sealed(), store)
    insert(old_log, '{"secret":"hunter3"}')

    result = here("eventlog", "compare", "--with", "old.log", *DAY)

    assert result.returncode == 1, result.stderr
    assert "only in event_log: 1 row(s)\n  tested  2026-03-04T05:06:07.123456+00:00  md5 " in result.stdout
    assert "only in old.log: 1 row(s)\n  tested  2026-03-04T05:06:06+00:00  md5 " in result.stdout
    assert "hunter" not in result.stdout + result.stderr


def test_nothing_to_compare_is_no_success(old_log: Client) -> None:
    assert old_log.query("SELECT count() FROM old.log").result_rows == [(0,)]

    result = here("eventlog", "compare", "--with", "old.log", *DAY)

    assert result.returncode == 1
    assert "No events in this period: nothing was compared." in result.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--with", "old.log; DROP TABLE event_log"), "is not the name of a table"),
        (("--with", "old.log", "--since", "yesterday"), "is not a time"),
        (("--with", "old.log", "--since", "2026-03-05", "--until", "2026-03-05"), "--since must be before --until"),
        (("--with", "old.log", "--at", "mysql://127.0.0.1/old"), "--at: 'mysql' is not a supported event store"),
    ],
)
def test_wrong_usage_is_named(arguments: tuple[str, ...], complaint: str) -> None:
    result = manage("eventlog", "compare", *arguments)

    assert result.returncode == 2
    assert complaint in result.stderr


def test_a_table_that_is_not_there_is_named() -> None:
    with pytest.raises(CommandError, match=r"The tables cannot be compared: .*no_such_log"):
        call_command("eventlog", "compare", "--with", "no_such_log", *DAY)


def test_the_other_table_may_be_in_another_store(store: EventStore, old_log: Client, services: Services) -> None:
    write_events(["{}"])
    deliver(sealed(), store)
    insert(old_log, "{}")
    old_log.command("CREATE VIEW old.only_there AS SELECT * FROM old.log")
    there = url_of(services.clickhouse, database="old")

    call_command("eventlog", "compare", "--with", "only_there", "--at", there, *DAY, stdout=StringIO())
