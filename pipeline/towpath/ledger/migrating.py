"""Before and after `migrate`: an outbox's table is neither dropped nor renamed while its events are under way.

The whole plan is looked at before its first statement. What RunSQL and RunPython do cannot be seen: `status` names what
they leave behind (pipeline/towpath/watch/unknown_outboxes.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandError
from django.db import DEFAULT_DB_ALIAS, connection
from django.db.backends.utils import truncate_name
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations import SeparateDatabaseAndState

from towpath import driver
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
    for migration, table in _tables_that_leave(plan):
        if under_way := _under_way(table):
            raise CommandError(
                f"{migration} would drop or rename {table}, the table of an outbox with {under_way}."
                " Nothing was changed. Stop publishing to it, wait until `python manage.py pipeline status` shows none"
                " of its rows pending or in flight, replay or drop its dead letters, and then migrate."
                " (docs/runbook.md, Outboxes that are renamed or removed)"
            )


def forget_drained(*, using: str, **_: Any) -> None:
    """Receiver of `post_migrate`. The cursor of an outbox that is gone, with nothing under way, means nothing more."""
    if using != DEFAULT_DB_ALIAS or not _exists("pipeline_cursor"):
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
    """True if it has an outbox's transaction id. A model of a migration knows nothing of its abstract bases."""
    return isinstance(model.fields.get("xid"), Xid8Field) and not model.options.get("proxy")


def _table(model: ModelState) -> str:
    given: str | None = model.options.get("db_table")
    default = f"{model.app_label}_{model.name_lower}"
    return given or truncate_name(default, connection.ops.max_name_length())


def _under_way(table: str) -> str:
    """What there is of it, in words; empty if there is nothing."""
    found = []
    with driver.cursor() as cursor:
        if _exists(table):
            cursor.execute(f"SELECT EXISTS (SELECT FROM {connection.ops.quote_name(table)})")
            if cursor.fetchone()[0]:
                found.append("undelivered rows")
        for what, ledger in _NAMED_IN.items():
            if _exists(ledger):
                cursor.execute(f"SELECT count(*) FROM {ledger} WHERE outbox = %(outbox)s", {"outbox": table})
                if count := cursor.fetchone()[0]:
                    found.append(f"{count} {what}")
    return " and ".join(found)


def _exists(table: str) -> bool:
    with driver.cursor() as cursor:
        cursor.execute("SELECT to_regclass(quote_ident(%(table)s)) IS NOT NULL", {"table": table})
        return bool(cursor.fetchone()[0])
