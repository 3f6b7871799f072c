"""Before and after `migrate`: an outbox's table is neither dropped nor renamed while its events are under way, and the
ledger's tables are not dropped while any event is.

The whole plan is checked before its first statement. RunSQL and RunPython cannot be checked: `status` names what they
leave behind (pipeline/towpath/watch/unknown_outboxes.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandError
from django.db import DEFAULT_DB_ALIAS, connection
from django.db.backends.utils import truncate_name
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations import CreateModel, SeparateDatabaseAndState

from towpath import driver
from towpath.ledger.left import count_named, count_rows, exists
from towpath.outbox.fields import Xid8Field
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from django.db.migrations import Migration
    from django.db.migrations.operations.base import Operation
    from django.db.migrations.state import ModelState, ProjectState

_NAMED_IN = {"batch(es)": "pipeline_batch", "dead letter(s)": "pipeline_deadletter"}


def refuse_to_lose_events(*, using: str, plan: Sequence[tuple[Migration, bool]], **_: Any) -> None:
    """Receiver of `pre_migrate`. Raises CommandError when the plan would take a table away from its events."""
    if using != DEFAULT_DB_ALIAS:
        return
    for migration in _migrations_that_take_the_ledger(plan):
        # Without the ledger, nothing tells any more which of them are already stored.
        for table in all_outboxes():
            if under_way := _under_way(table):
                raise CommandError(
                    f"{migration} would drop the ledger, and {table} is an outbox with {under_way}. Nothing was"
                    " changed. Stop publishing, and run `python manage.py pipeline leave`, which delivers its events"
                    " and then removes the tables. See docs/leaving.md."
                )
    for migration, table in _tables_that_leave(plan):
        if under_way := _under_way(table):
            raise CommandError(
                f"{migration} would drop or rename {table}, the table of an outbox with {under_way}. Nothing was"
                " changed. Stop publishing to it. Wait until `python manage.py pipeline status` shows none of its"
                " rows pending or in flight. Replay or drop its dead letters, then migrate. See docs/runbook.md,"
                " Outboxes that are renamed or removed."
            )


def forget_drained(*, using: str, **_: Any) -> None:
    """Receiver of `post_migrate`. Delete the cursors of outboxes that are gone, with nothing under way."""
    if using != DEFAULT_DB_ALIAS or not exists("pipeline_cursor"):
        return
    with driver.cursor() as cursor:
        cursor.execute(
            """
            DELETE FROM pipeline_cursor AS c
            WHERE outbox <> ALL(%(known)s) AND to_regclass(quote_ident(outbox)) IS NULL
              AND NOT EXISTS (SELECT FROM pipeline_batch AS b WHERE b.outbox = c.outbox)
              AND NOT EXISTS (SELECT FROM pipeline_deadletter AS d WHERE d.outbox = c.outbox)
            """,
            {"known": list(all_outboxes())},
        )


def _migrations_that_take_the_ledger(plan: Sequence[tuple[Migration, bool]]) -> Iterator[Migration]:
    for migration, is_backwards in plan:
        makes_batches = any(
            isinstance(operation, CreateModel) and operation.name_lower == "batch" for operation in migration.operations
        )
        if is_backwards and migration.app_label == "towpath" and makes_batches:
            yield migration


def _tables_that_leave(plan: Sequence[tuple[Migration, bool]]) -> Iterator[tuple[Migration, str]]:
    """Tables of outboxes that are not there any more, under their names, after a migration of the plan."""
    if not plan:
        return
    loader = MigrationLoader(connection)
    for migration, is_backwards in plan:
        state = loader.project_state((migration.app_label, migration.name), at_end=False)
        for operation in migration.operations:
            for table in sorted(_leaving(operation, migration.app_label, state, is_backwards=is_backwards)):
                yield migration, table


def _leaving(operation: Operation, app_label: str, state: ProjectState, *, is_backwards: bool) -> set[str]:
    """The tables that the operation takes away from the database. `state` is brought to that after it."""
    if isinstance(operation, SeparateDatabaseAndState):
        database = state.clone()
        found = [_leaving(one, app_label, database, is_backwards=is_backwards) for one in operation.database_operations]
        operation.state_forwards(app_label, state)
        return set().union(*found)
    before = _tables(state)
    operation.state_forwards(app_label, state)
    after = _tables(state)
    return after - before if is_backwards else before - after


def _tables(state: ProjectState) -> set[str]:
    return {_table(model) for model in state.models.values() if _is_outbox(model)}


def _is_outbox(model: ModelState) -> bool:
    """True if it has an outbox's transaction id. A model of a migration knows nothing of its abstract bases.

    By the name of its class, which is also that of the copy that `pipeline leave --migrations` makes.
    """
    return type(model.fields.get("xid")).__name__ == Xid8Field.__name__ and not model.options.get("proxy")


def _table(model: ModelState) -> str:
    given: str | None = model.options.get("db_table")
    default = f"{model.app_label}_{model.name_lower}"
    return given or truncate_name(default, connection.ops.max_name_length())


def _under_way(table: str) -> str:
    """Return in words what the outbox still has under way; empty if nothing."""
    found = []
    if exists(table) and (rows := count_rows(table)):
        found.append(f"{rows:,} undelivered row(s)")
    for what, ledger in _NAMED_IN.items():
        if count := count_named(ledger, table):
            found.append(f"{count:,} {what}")
    return " and ".join(found)
