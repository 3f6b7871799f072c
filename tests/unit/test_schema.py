"""The plan of a schema's migrations: additions only."""

from __future__ import annotations

import pytest

from towpath.eventlog import schema
from towpath.eventlog.schema import SchemaConflictError
from towpath.eventlog.store import Finding, Migration

TABLE = Migration(1, "table", ("CREATE TABLE t",))
INDEX = Migration(2, "index", ("CREATE INDEX i",))
ACTOR = Migration(100, "column actor", ("ADD COLUMN actor String",))
IP = Migration(101, "column ip", ("ADD COLUMN ip String",))


class Store:
    """Declares some migrations, has applied others."""

    def __init__(self, *, declared: list[Migration], applied: list[Migration]) -> None:
        self._declared, self._applied = declared, applied

    def migrations(self) -> list[Migration]:
        return self._declared

    def applied_migrations(self) -> dict[int, tuple[str, str]]:
        return {one.number: (one.name, one.checksum) for one in self._applied}

    def apply_migration(self, migration: Migration) -> None:
        self._applied.append(migration)

    def foreign_tables(self) -> list[str]:
        return []

    def problems(self) -> list[str]:
        return []

    def reading_problems(self) -> list[str]:
        return []

    def findings(self) -> list[Finding]:
        return []


def test_what_is_missing_is_planned_in_order() -> None:
    assert schema.plan(Store(declared=[TABLE, ACTOR, IP], applied=[])) == [TABLE, ACTOR, IP]
    assert schema.plan(Store(declared=[TABLE, ACTOR, IP], applied=[TABLE, ACTOR])) == [IP]
    assert schema.plan(Store(declared=[TABLE, ACTOR], applied=[TABLE, ACTOR])) == []


def test_a_later_step_of_the_stores_own_comes_although_columns_were_added_before() -> None:
    assert schema.plan(Store(declared=[TABLE, INDEX, ACTOR], applied=[TABLE, ACTOR])) == [INDEX]


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        pytest.param([TABLE], "never dropped", id="a column is gone"),
        pytest.param([TABLE, Migration(100, "column who", ("ADD COLUMN who String",))], "changed", id="renamed"),
        pytest.param([TABLE, Migration(100, "column actor", ("ADD COLUMN actor UInt64",))], "changed", id="other kind"),
        pytest.param(
            [TABLE, Migration(100, IP.name, IP.statements), Migration(101, ACTOR.name, ACTOR.statements)],
            "changed",
            id="one before it",
        ),
    ],
)
def test_what_would_change_or_take_away_is_refused_with_what_to_do(declared: list[Migration], why: str) -> None:
    with pytest.raises(SchemaConflictError, match=why) as refused:
        schema.plan(Store(declared=declared, applied=[TABLE, ACTOR]))

    assert "Restore its declaration" in str(refused.value)


def test_a_table_of_an_earlier_version_is_refused_with_the_page_that_says_how_its_events_move() -> None:
    declared = [Migration(1, "table", ("CREATE TABLE other",)), ACTOR]

    with pytest.raises(SchemaConflictError, match=r"see docs/stores\.md, .* Nothing was changed"):
        schema.plan(Store(declared=declared, applied=[TABLE, ACTOR]))


def test_each_migration_has_a_state() -> None:
    changed = Migration(100, "column actor", ("ADD COLUMN actor UInt64",))
    store = Store(declared=[TABLE, INDEX, changed], applied=[TABLE, ACTOR, IP])

    assert [(one.number, one.state) for one in schema.states(store)] == [
        (1, "applied"),
        (2, "pending"),
        (100, "changed"),
        (101, "unknown"),
    ]
