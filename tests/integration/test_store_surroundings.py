"""What is wrong around the event store's table: named by `doctor`, and in the log of a worker that starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.manage import here
from tests.waiting import eventually
from towpath.conf.current import config
from towpath.watch.doctor import examine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.event_log import EventLog
    from tests.integration.workers import Workers
    from tests.services import Services
    from towpath.eventlog.store import Store


@pytest.fixture
def sums(event_log: EventLog) -> Iterator[str]:
    """The target of a view, without a token log."""
    event_log.command("CREATE TABLE sums (event_type String, n UInt64) ENGINE = SummingMergeTree ORDER BY event_type")
    event_log.command(
        "CREATE MATERIALIZED VIEW sums_view TO sums"
        " AS SELECT event_type, count() AS n FROM event_log GROUP BY event_type"
    )
    yield "sums"
    event_log.command("DROP TABLE sums_view SYNC")
    event_log.command("DROP TABLE sums SYNC")


def test_doctor_and_a_starting_worker_name_a_view_whose_target_has_no_token_log(
    sums: str, workers: Workers, services: Services, request: pytest.FixtureRequest
) -> None:
    (finding,) = [one for one in examine(config()) if one.check == "event store view"]
    assert not finding.is_ok
    assert f"ALTER TABLE default.`{sums}` MODIFY SETTING non_replicated_deduplication_window" in finding.detail

    workers.aggregator()

    folder = services.folder / "log" / request.node.name[:80]
    eventually(
        lambda: any("event_store_finding" in path.read_text() for path in folder.glob("*")),
        seconds=60,
        what="the worker has logged it",
    )
    lines = [line for path in folder.glob("*") for line in path.read_text().splitlines()]
    (line,) = [line for line in lines if "event_store_finding" in line]
    assert '"level": "error"' in line
    assert "sums_view" in line


def test_a_ttl_is_a_problem_before_events_vanish(event_log: EventLog, store: Store) -> None:
    event_log.alter("MODIFY TTL toDateTime(event_date_time) + INTERVAL 1 YEAR")
    try:
        result = here("pipeline", "doctor")

        assert result.returncode == 1
        assert "has a TTL: an event older than that vanishes" in result.stdout
        assert any("TTL" in problem for problem in store.problems())
        migrated = here("eventlog", "migrate")
        assert (migrated.returncode, migrated.stdout) == (0, "nothing to do: every step is applied\n")
        assert "! it has a TTL" in migrated.stderr
    finally:
        event_log.alter("REMOVE TTL")
    assert store.problems() == []


def test_migrate_refuses_a_foreign_table_and_says_what_to_do(event_log: EventLog) -> None:
    event_log.rename_table("event_log", "event_log_away")
    event_log.rename_table("event_log_migration", "event_log_migration_away")
    try:
        event_log.command("CREATE TABLE event_log (event_type String) ENGINE = MergeTree ORDER BY event_type")

        for arguments in (("migrate",), ("migrate", "--plan"), ("migrate", "--check")):
            result = here("eventlog", *arguments)
            assert result.returncode == 1
            assert "was not made by Towpath: its partition key is empty" in result.stderr
            assert "Rename it" in result.stderr
        assert "eventlog migrate" in next(one.detail for one in examine(config()) if one.check == "event store table")
        assert event_log.count() == 0
    finally:
        event_log.drop_table("event_log")
        event_log.rename_table("event_log_away", "event_log")
        event_log.rename_table("event_log_migration_away", "event_log_migration")
