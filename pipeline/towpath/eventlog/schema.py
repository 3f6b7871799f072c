"""The OBT's schema: numbered migrations with checksums, each applied once, under a lock.

They only add: an application may have old and new workers at the same time, and the log's past must stay readable.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from django.db import transaction

from towpath import driver
from towpath.eventlog.columns import FIRST_COLUMN_NUMBER, FIRST_OWN_COLUMN_NUMBER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from towpath.eventlog.store import MigratableStore, Migration

#: PostgreSQL's advisory lock with this number keeps two migrations apart, whatever the store.
_LOCK = 5_208_140_022


State = Literal["applied", "pending", "changed", "unknown"]


@dataclass(frozen=True, slots=True)
class MigrationState:
    """`changed`: applied, but with other statements. `unknown`: applied, but not declared any more."""

    number: int
    name: str
    state: State


class SchemaConflictError(Exception):
    """The store's schema cannot be brought up to date by additions."""


def states(store: MigratableStore) -> list[MigrationState]:
    """Return every migration, declared or applied, in order."""
    applied = store.applied_migrations()
    declared = {migration.number: migration for migration in store.migrations()}
    found = []
    for number in sorted({*applied, *declared}):
        if number not in declared:
            found.append(MigrationState(number, applied[number][0], "unknown"))
        elif number not in applied:
            found.append(MigrationState(number, declared[number].name, "pending"))
        else:
            is_same = applied[number][1] == declared[number].checksum
            found.append(MigrationState(number, declared[number].name, "applied" if is_same else "changed"))
    return found


def plan(store: MigratableStore) -> Sequence[Migration]:
    """Return the migrations still to be applied. Raises SchemaConflictError if what was applied is not what is
    declared, or if a table of that name was not made by Towpath."""
    if foreign := store.foreign_tables():
        raise SchemaConflictError(f"{'. '.join(foreign)}. Nothing was changed.")
    if found := next(conflicts(store), None):
        raise SchemaConflictError(f"{found} Nothing was changed.")
    applied = store.applied_migrations()
    return [migration for migration in store.migrations() if migration.number not in applied]


def conflicts(store: MigratableStore) -> Iterator[str]:
    """Yield what was applied but differs from what is declared, and how to fix it."""
    applied = store.applied_migrations()
    for one in states(store):
        if one.state == "changed" and one.number < FIRST_COLUMN_NUMBER:
            yield (
                f"an earlier version of Towpath made the {one.name}, in another form: see docs/stores.md, A table of"
                " an earlier version, for how to move its events."
            )
            continue
        where = "in the setting TOWPATH (columns)" if one.number >= FIRST_OWN_COLUMN_NUMBER else "in Towpath"
        if one.state == "changed":
            yield (
                f"migration {one.number} was applied as {applied[one.number][0]!r}, but is declared as {one.name!r}"
                " with other statements: an applied column cannot be renamed, changed or moved. Restore its"
                f" declaration {where}, in its old place, and append a new column."
            )
        if one.state == "unknown" and one.number >= FIRST_COLUMN_NUMBER:
            yield (
                f"migration {one.number} ({one.name}) was applied but is no longer declared, so its column stays"
                f" empty: columns are never dropped here. Restore its declaration {where}, or update this"
                " application."
            )


def migrate(store: MigratableStore) -> Sequence[Migration]:
    """Apply what is missing, in order. Returns what was applied. Does nothing the second time.

    If the power fails in the middle of a step, it stays pending: its statements can be repeated.
    """
    with _lock():
        todo = plan(store)
        for migration in todo:
            store.apply_migration(migration)
    return todo


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    # A lock of the transaction: behind a pooler, one of the session would outlive this. The transaction has no snapshot
    # while it waits for the event store, so it holds back nothing, and it may take its time.
    with transaction.atomic(), driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT set_config(name, '0', true) FROM pg_settings
            WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')
            """
        )
        cursor.execute("SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": _LOCK})
        yield
