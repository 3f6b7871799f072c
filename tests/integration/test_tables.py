"""What somebody changes at the tables by hand: `pipeline doctor` names it, with the statement that repairs it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from django.db import connection

from tests.integration.manage import doctor
from tests.integration.rows import write_events
from towpath.ledger.models import Batch
from towpath.watch import tables
from towpath.watch.tables import problems

if TYPE_CHECKING:
    from collections.abc import Iterator


def run(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


@pytest.fixture
def changed(request: pytest.FixtureRequest) -> Iterator[str]:
    """The table is changed as the parameter says, and is repaired as it says."""
    break_it, repair_it, problem = request.param
    run(break_it)
    yield problem
    run(repair_it)


@pytest.mark.parametrize(
    "changed",
    [
        (
            "ALTER TABLE outbox_event SET UNLOGGED",
            "ALTER TABLE outbox_event SET LOGGED",
            "outbox_event is unlogged: a crash of PostgreSQL empties it. Run ALTER TABLE outbox_event SET LOGGED",
        ),
        (
            "ALTER TABLE outbox_event ALTER COLUMN xid DROP DEFAULT",
            "ALTER TABLE outbox_event ALTER COLUMN xid SET DEFAULT pg_current_xact_id()",
            "outbox_event: xid lacks its default",
        ),
        (
            "DROP INDEX outbox_even_xid_f07688_idx",
            "CREATE INDEX outbox_even_xid_f07688_idx ON outbox_event (xid, id) WHERE xid >= '0'",
            "outbox_event has no valid index on (xid, id)",
        ),
        (
            "CREATE TABLE pointing (id bigint CONSTRAINT pointing_fk REFERENCES outbox_event)",
            "DROP TABLE pointing",
            "outbox_event: delivered rows cannot be deleted, because pointing points to them. Run ALTER TABLE",
        ),
    ],
    indirect=True,
    ids=["unlogged", "default", "index", "key"],
)
def test_the_doctor_names_a_table_that_was_changed_by_hand(changed: str) -> None:
    (problem,) = [*problems()]
    assert problem.startswith(changed)

    code, findings = doctor()
    assert code == 1
    assert findings["tables"] == {"check": "tables", "is_ok": False, "detail": problem}


def test_tables_as_migrate_made_them_are_well() -> None:
    assert [*problems()] == []


def test_ids_that_are_given_again_while_they_are_under_way_are_named() -> None:
    (row_id,) = write_events(["{}"])
    run("TRUNCATE outbox_event")
    Batch.objects.create(outbox="outbox_event", ids=[row_id], rows=1, bytes=1, dispatched_at="2026-01-01T00:00:00Z")
    assert [*problems()] == []
    run("ALTER SEQUENCE outbox_event_id_seq RESTART")

    (problem,) = [*problems()]
    assert problem.startswith(f"outbox_event reuses ids that are in flight (up to {row_id}): run SELECT setval(")
    run(problem.partition(": run ")[2])
    assert [*problems()] == []
    assert write_events(["{}"]) == [row_id + 1]


def test_an_index_that_a_backlog_has_left_behind_is_named_and_rebuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_LARGE_INDEX_BYTES", 1_000_000)
    write_events(["{}"] * 50_000)
    run("DELETE FROM outbox_event")
    # PostgreSQL counts dead rows up to a second late: it would add these to the vacuum's count, which is 0.
    run("SELECT pg_stat_force_next_flush()")
    run("VACUUM outbox_event")

    primary_key, by_xid = sorted(problems(), key=lambda problem: "_pkey" not in problem)

    assert primary_key.startswith("outbox_event_pkey is nearly empty, but vacuum reads ")
    for problem in (primary_key, by_xid):
        (command,) = re.findall(r"REINDEX INDEX CONCURRENTLY \w+", problem)
        run(command)
    assert [*problems()] == []


def test_an_index_as_large_as_its_rows_need_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_LARGE_INDEX_BYTES", 1_000_000)
    write_events(["{}"] * 50_000)
    run("ANALYZE outbox_event")

    assert [*problems()] == []
