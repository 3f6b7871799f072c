"""A table of before 0.1.0, which was sorted by type first, and the page that says how its events move."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.manage import here
from tests.integration.proving import OnClickHouse, audited
from tests.integration.receipts import delivered, verified
from towpath.eventlog import schema
from towpath.eventlog.schema import SchemaConflictError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services import Services

_PAGE = Path(__file__).parents[2] / "docs" / "stores.md"


def _statements() -> list[str]:
    section = _PAGE.read_text().partition("## A table of an earlier version")[2].partition("\n## ")[0]
    return [statement.strip() for statement in re.findall(r"```sql\n(.*?)```", section, re.DOTALL)]


@pytest.fixture
def log(services: Services) -> Iterator[OnClickHouse]:
    """The run's own store, which has its tables again afterwards, whatever happened."""
    found = OnClickHouse(services)
    yield found
    for table in ("event_log", "event_log_migration", "event_log_before", "event_log_migration_before"):
        found.execute(f"DROP TABLE IF EXISTS {table} SYNC")
    schema.migrate(found.store)
    found.close()


def test_the_events_of_an_earlier_table_move_by_the_page(log: OnClickHouse) -> None:
    # Given a table as it was made before, with proven events
    log.execute("DROP TABLE event_log SYNC")
    log.execute("TRUNCATE TABLE event_log_migration")
    for migration in log.store.migrations():
        for statement in migration.statements:
            log.execute(statement.replace("ORDER BY (", "ORDER BY (event_type, "))
        record = f"({migration.number}, '{migration.name}', 'earlier')"
        log.execute(f"INSERT INTO event_log_migration (number, name, checksum) VALUES {record}")
    delivered(log.store, users=3, events=4)
    verified(log.store)

    # It is refused, and the answer names the page
    with pytest.raises(SchemaConflictError, match=r"see docs/stores\.md"):
        schema.migrate(log.store)

    # When the page is followed
    rename, copy = _statements()
    log.execute(rename)
    assert schema.migrate(log.store)
    log.execute(copy)

    # Then the log is as it was proven, and nothing is left to do
    audit = audited()
    assert (audit["exit"], audit["rows"], audit["differences"]) == (0, 7, [])
    assert not log.store.problems()
    assert here("eventlog", "migrate").returncode == 0
