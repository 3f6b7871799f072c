"""Rows that no event store takes: those of a table of before its limits (pipeline/towpath/outbox/models.py) came.

With the limits, PostgreSQL refuses such rows, so tests of what becomes of them take the limits away first.
"""

from __future__ import annotations

from django.db import connection

from towpath.outbox.fields import RowLimits
from towpath.outbox.models import OutboxEvent

_LIMITS = next(one for one in OutboxEvent._meta.constraints if isinstance(one, RowLimits))


def take_limits_away() -> None:
    """Let `outbox_event` have rows of any kind, until `give_limits_back`."""
    if _are_there():
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE outbox_event DROP CONSTRAINT {_LIMITS.name}")


def give_limits_back() -> None:
    """As migrated. Rows that are there stay."""
    if not _are_there():
        with connection.schema_editor() as editor:
            editor.add_constraint(OutboxEvent, _LIMITS)


def _are_there() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_constraint WHERE conname = %s)", [_LIMITS.name])
        return bool(cursor.fetchone()[0])
