"""What is left to deliver, for a project that leaves: counted in full, in every table that still exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.apps import apps
from django.db import connection

from towpath import driver

#: A writer that holds a table for longer is not waited for: publishers would have to wait as well.
_LOCK_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Left:
    """What the outboxes and the ledger still hold. `rows` has every outbox that has a table, by its name."""

    rows: Mapping[str, int]
    batches: int = 0
    open_windows: int = 0
    dead_letters: int = 0
    #: Receipts that the event store has not confirmed, or contradicts.
    unconfirmed_receipts: int = 0

    @property
    def undelivered(self) -> int:
        """Rows that are not dead letters, and what the ledger holds of them. 0 if nothing is under way."""
        rows = max(0, sum(self.rows.values()) - self.dead_letters)
        return rows + self.batches + self.open_windows + self.unconfirmed_receipts

    @property
    def is_nothing(self) -> bool:
        """True if no event would be lost with the tables."""
        return not self.undelivered and not self.dead_letters


def find_left(outboxes: Sequence[str]) -> Left:
    """Return what is left in these outboxes and in the ledger. A table that is not there holds nothing."""
    return Left(
        rows={outbox: count_rows(outbox) for outbox in outboxes if exists(outbox)},
        batches=_count_if_there("pipeline_batch"),
        open_windows=_count_if_there("pipeline_window", "acked_at IS NULL"),
        dead_letters=_count_if_there("pipeline_deadletter"),
        unconfirmed_receipts=_count_if_there("pipeline_window", "acked_at IS NOT NULL AND verified_at IS NULL"),
    )


def count_rows(outbox: str) -> int:
    """Return how many rows the table of an outbox has."""
    return _count(connection.ops.quote_name(outbox))


def count_named(ledger_table: str, outbox: str) -> int:
    """Return how many rows of a table of the ledger have the name of the outbox."""
    return _count_if_there(ledger_table, "outbox = %(outbox)s", outbox=outbox)


def tables() -> list[str]:
    """Return Towpath's own tables that exist: the ledger's, and the general outbox."""
    named = sorted(model._meta.db_table for model in apps.get_app_config("towpath").get_models())
    return [table for table in named if exists(table)]


def lock(outboxes: Sequence[str]) -> None:
    """Block all publishing until the transaction ends. Raises OperationalError if a session is publishing."""
    with driver.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")
        for outbox in outboxes:
            if exists(outbox):
                cursor.execute(f"LOCK TABLE {connection.ops.quote_name(outbox)} IN ACCESS EXCLUSIVE MODE")


def exists(table: str) -> bool:
    """True if a table with this name exists."""
    with driver.cursor() as cursor:
        cursor.execute("SELECT to_regclass(quote_ident(%(table)s)) IS NOT NULL", {"table": table})
        return bool(cursor.fetchone()[0])


def _count_if_there(table: str, condition: str = "true", **values: str) -> int:
    return _count(table, condition, **values) if exists(table) else 0


def _count(table: str, condition: str = "true", **values: str) -> int:
    with driver.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table} WHERE {condition}", values)
        return int(cursor.fetchone()[0])
