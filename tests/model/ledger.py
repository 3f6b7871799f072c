"""What PostgreSQL holds, read and pushed about with SQL of the tests' own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg2
from django.conf import settings

from tests.tables import every_table, numbered_tables

if TYPE_CHECKING:
    from towpath.eventlog.rows import Identity

#: The apps whose tables an example can have written.
_APPS = ("towpath", "users")

#: Into the past, in the order which they had.
_EXPIRE = "UPDATE pipeline_window SET lease_until = lease_until - interval '10 years' WHERE acked_at IS NULL"

#: Tables are truncated once in this many times: deleting is quicker, but leaves dead rows behind.
_TRUNCATE_EVERY = 100


@dataclass(frozen=True, slots=True)
class Sample:
    """The ledger at one moment."""

    in_outbox: frozenset[Identity]
    in_batches: tuple[Identity, ...]
    dead: frozenset[Identity]
    open_windows: int
    #: Outboxes of receipts in which not as many rows are accounted for as were sealed.
    wrong_receipts: tuple[Identity, ...]
    #: Tables and numbers of what nobody looks for any more.
    missed: tuple[Identity, ...]


class NumberedUuids:
    """In place of the module `uuid` in `towpath.ledger.windows`: the same ones in the same order in each example."""

    def __init__(self) -> None:
        self.number = 0

    def uuid4(self) -> UUID:
        self.number += 1
        return UUID(int=self.number)


class Ledger:
    """A connection of its own, so that it sees what is committed and nothing else."""

    def __init__(self) -> None:
        default = settings.DATABASES["default"]
        self._connection = psycopg2.connect(
            host=default["HOST"],
            port=default["PORT"],
            user=default["USER"],
            password=default["PASSWORD"],
            dbname=default["NAME"],
        )
        self._connection.autocommit = True
        self.uuids = NumberedUuids()
        self._clearings = 0
        self.execute("SET synchronous_commit = off; SET lock_timeout = '10s'")
        # What a killed program of another test has left. While its transaction is open, cursors wait for its rows.
        self.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )

    def clear(self) -> None:
        """Also numbers and uuids begin again: what an example does must not depend on those before it."""
        if self._clearings % _TRUNCATE_EVERY == 0:
            self.execute(f"TRUNCATE {', '.join(every_table(*_APPS))} CASCADE")
        # One transaction: the foreign keys are checked at its end, whatever the order.
        self.execute("; ".join(f"DELETE FROM {table}" for table in every_table(*_APPS)))
        self.execute(
            "SELECT setval(pg_get_serial_sequence(name, 'id'), 100, false) FROM unnest(%s::text[]) AS name",
            numbered_tables(*_APPS),
        )
        self._clearings += 1
        self.uuids.number = 0

    def begin_cursors_here(self) -> None:
        """Leave out what was there before, and is deleted."""
        self.execute("UPDATE pipeline_cursor SET seen = pg_current_snapshot()")

    def expire_leases(self) -> None:
        self.execute(_EXPIRE)

    def age_batches(self) -> None:
        """As if they had waited too long for somebody to seal them."""
        self.execute("UPDATE pipeline_batch SET dispatched_at = '2000-01-01' WHERE window_id IS NULL")

    def sample(self) -> Sample:
        found: dict[str, list[Identity]] = {
            "outbox": [],
            "batch": [],
            "dead": [],
            "window": [],
            "wrong": [],
            "missed": [],
        }
        for kind, outbox, row_id in self.rows(
            "WITH newest AS (SELECT DISTINCT ON (name) name, value FROM pipeline_mark ORDER BY name, version DESC),"
            " marks AS (SELECT max(value) FILTER (WHERE name = 'windows') AS windows,"
            " max(value) FILTER (WHERE name = 'batches') AS batches,"
            " max(value) FILTER (WHERE name = 'verified') AS verified FROM newest)"
            " SELECT 'outbox', 'outbox_event', id FROM outbox_event UNION ALL"
            " SELECT 'outbox', 'outbox_user', id FROM outbox_user UNION ALL"
            " SELECT 'batch', outbox, unnest(ids) FROM pipeline_batch UNION ALL"
            " SELECT 'dead', outbox, row_id FROM pipeline_deadletter UNION ALL"
            " SELECT 'window', '', count(*) FROM pipeline_window WHERE acked_at IS NULL UNION ALL"
            " SELECT 'wrong', outbox, sealed::bigint FROM pipeline_window, jsonb_each_text(rows) AS r (outbox, sealed)"
            " WHERE acked_at IS NOT NULL AND sealed::bigint <> (SELECT coalesce(sum((part ->> outbox)::bigint), 0)"
            " FROM unnest(ARRAY[delivered, vanished, refused, isolated]) AS part)"
            " UNION ALL SELECT 'missed', 'batch', id FROM pipeline_batch, marks WHERE id < batches AND NOT is_late"
            " UNION ALL SELECT 'missed', 'window', number FROM pipeline_window, marks WHERE NOT is_late"
            " AND CASE WHEN acked_at IS NULL THEN number < windows ELSE verified_at IS NULL AND number < verified END"
        ):
            found[kind].append((outbox, row_id))
        return Sample(
            in_outbox=frozenset(found["outbox"]),
            in_batches=tuple(found["batch"]),
            dead=frozenset(found["dead"]),
            open_windows=found["window"][0][1],
            wrong_receipts=tuple(found["wrong"]),
            missed=tuple(found["missed"]),
        )

    def only_window(self) -> UUID:
        ((window_id,),) = self.rows("SELECT id FROM pipeline_window")
        return window_id  # type: ignore[no-any-return]

    def execute(self, sql: str, *parameters: object) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return cursor.fetchall()

    def close(self) -> None:
        self._connection.close()
