"""The ledger's tables, for those who look at them from outside: in catalogues, and for a role's rights."""

from __future__ import annotations

from django.apps import apps

from towpath import driver
from towpath.ledger import models


def ledger_tables() -> list[str]:
    """Return the name of every table of the ledger."""
    return [
        model._meta.db_table
        for model in apps.get_app_config("towpath").get_models()
        if model.__module__ == models.__name__
    ]


def may_seal() -> bool:
    """True if this role may write windows: it is the pipeline's, and not one that may only look."""
    with driver.cursor() as cursor:
        cursor.execute("SELECT has_table_privilege(%(table)s, 'INSERT')", {"table": models.Window._meta.db_table})
        return bool(cursor.fetchone()[0])
