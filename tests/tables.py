"""Every table that a test can have written, as the models say: a new one is emptied without being listed anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import apps
from django.db import connection
from django.db.models import AutoField

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from django.db.models import Model

#: What `migrate` fills, and nothing else writes.
_FILLED_BY_MIGRATE = ("contenttypes.ContentType", "auth.Permission")


def every_table(*apps_only: str) -> list[str]:
    """The tables of all models, those between two models included, sorted; or of the models of these apps."""
    return sorted({model._meta.db_table for model in _models(apps_only)})


def numbered_tables(*apps_only: str) -> list[str]:
    """Those of them whose rows PostgreSQL numbers in `id`."""
    keys = {model._meta.db_table: model._meta.pk for model in _models(apps_only)}
    return sorted(table for table, key in keys.items() if isinstance(key, AutoField) and key.column == "id")


def empty_tables(*more: str, keep: Sequence[str] = ()) -> None:
    """Empty all of them but `keep`, `more`, and what depends on any; those without a row since are left alone.

    Identities are not restarted: a message of the test before, late, must not meet a batch of this one.
    """
    with connection.cursor() as cursor:
        # A table that was truncated has no page until the next row; truncating it again would take milliseconds.
        cursor.execute(
            "SELECT name FROM unnest(%s::text[]) AS name WHERE pg_relation_size(name::regclass) > 0",
            [[name for name in (*every_table(), *more) if name not in keep]],
        )
        if written := [name for (name,) in cursor.fetchall()]:
            cursor.execute(f"TRUNCATE {', '.join(written)} CASCADE")


def _models(apps_only: tuple[str, ...]) -> Iterator[type[Model]]:
    for model in apps.get_models(include_auto_created=True):
        is_asked_for = not apps_only or model._meta.app_label in apps_only
        if is_asked_for and model._meta.managed and model._meta.label not in _FILLED_BY_MIGRATE:
            yield model
