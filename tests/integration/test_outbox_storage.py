"""How the tables of outboxes are stored: vacuumed by count, never truncated, and that with all that belongs to them."""

from __future__ import annotations

import pytest
from django.db import connection

from tests.integration.rows import execute, write_events
from towpath.outbox.fields import TableStorage
from towpath.outbox.models import OutboxEvent, all_outboxes

_OWN_TABLE_ONLY = {"autovacuum_analyze_scale_factor", "autovacuum_analyze_threshold"}


def storage() -> TableStorage:
    (found,) = [one for one in OutboxEvent._meta.constraints if isinstance(one, TableStorage)]
    return found


def options(table: str) -> tuple[set[str], set[str]]:
    """Of the table, and of its TOAST table."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(c.reloptions, '{}'), coalesce(t.reloptions, '{}')"
            " FROM pg_class AS c JOIN pg_class AS t ON t.oid = c.reltoastrelid WHERE c.relname = %s",
            [table],
        )
        own, of_toast = cursor.fetchone()
    return {*own}, {*of_toast}


def toast_bytes() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE relname = 'outbox_event'")
        return int(cursor.fetchone()[0])


@pytest.mark.parametrize("table", sorted([*all_outboxes(), "pipeline_batch"]))
def test_what_holds_for_the_table_holds_for_its_large_values(table: str) -> None:
    """With one parameter of its own, a TOAST table has none of its table's: not the thresholds of autovacuum either."""
    own, of_toast = options(table)

    assert {"vacuum_truncate=off", "autovacuum_vacuum_scale_factor=0"} <= of_toast
    assert of_toast == {option for option in own if option.partition("=")[0] not in _OWN_TABLE_ONLY}


def test_an_outbox_that_ran_empty_keeps_its_pages() -> None:
    """Giving them back takes an exclusive lock, and publishers wait for it."""
    execute("ALTER TABLE outbox_event ALTER COLUMN event_context SET STORAGE EXTERNAL")
    try:
        write_events(["x" * 100_000] * 100)
        size = toast_bytes()
        execute("DELETE FROM outbox_event", "VACUUM outbox_event")
    finally:
        execute("ALTER TABLE outbox_event ALTER COLUMN event_context SET STORAGE EXTENDED")

    assert size > 10_000_000
    assert toast_bytes() == size


def test_a_table_from_before_gets_the_parameters_by_a_migration() -> None:
    new = storage()
    old = TableStorage(
        name=new.name,
        parameters={name: value for name, value in new.parameters.items() if not name.startswith("toast.")},
        lz4_columns=new.lz4_columns,
    )
    before = options("outbox_event")
    with connection.schema_editor() as editor:
        editor.remove_constraint(OutboxEvent, new)
        editor.add_constraint(OutboxEvent, old)
    assert options("outbox_event")[1] == set()

    assert old != new  # what makemigrations goes by
    with connection.schema_editor() as editor:
        editor.remove_constraint(OutboxEvent, old)
        editor.add_constraint(OutboxEvent, new)

    assert options("outbox_event") == before
