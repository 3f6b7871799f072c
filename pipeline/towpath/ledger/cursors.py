"""Cursors: how far each outbox has been dispatched. `towpath.ledger.take` moves them, together with the batches.

Transaction ids have a meaning only in one PostgreSQL cluster, so a cursor remembers its cluster. In another cluster
(after a restore with pg_dump) it is rewound: it has seen nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import connection, transaction

from towpath import driver
from towpath.ledger.batches import BATCHES
from towpath.ledger.marks import INDEX_PROBES_ONLY, INSERTING_BATCHES
from towpath.ledger.pauses import IS_PAUSED
from towpath.ledger.snapshot import Position, Run, Snapshot
from towpath.ledger.versions import newest, newest_of_each
from towpath.outbox.fields import RowLimits, TransactionIndex

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from towpath.outbox.models import Outbox

_CLUSTER = "(SELECT system_identifier::text FROM pg_control_system())"

#: True if the cursor `c` is of another cluster. A lower xmax reveals a cluster that was reset in another way than by
#: pg_dump.
_MUST_BE_REWOUND = f"""
    (c.cluster <> {_CLUSTER} OR pg_snapshot_xmax(pg_current_snapshot()) < pg_snapshot_xmax(c.seen))"""

#: PostgreSQL's number of the table with the name of the outbox.
_TABLE_OID = "to_regclass(quote_ident(%(outbox)s))::oid::bigint"

#: True if the cursor `c` dispatched the outbox's table, under a name that is not known.
_IS_OF_AN_UNKNOWN_NAME = f"(c.table_oid = {_TABLE_OID} AND c.cluster = {_CLUSTER} AND c.outbox <> ALL(%(known)s))"

#: The cursor of each of the outboxes of the parameter.
_THEIR_NEWEST = f"""
    unnest(%(outboxes)s::text[]) AS asked (name)
    CROSS JOIN LATERAL {newest("pipeline_cursor", key="outbox", value="asked.name")}"""

#: The cursor of every outbox that has one.
EVERY_CURSOR = newest_of_each("pipeline_cursor", key="outbox")


@dataclass(frozen=True, slots=True)
class Cursor:
    """What a cursor has seen, and the runs in it that are still to be dispatched. After a restore it is rewound: then
    it leaves out the rows that batches and dead letters hold."""

    version: int
    seen: Snapshot
    is_rewound: bool
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class News:
    """What a look found for one outbox: new rows, runs, or that its cursor must be rewound first."""

    outbox: str
    has_new: bool
    has_runs: bool
    is_of_another_cluster: bool


def create(outbox: str, *, known: Collection[str]) -> bool:
    """Give the outbox a cursor that has seen nothing, unless it has one. True if it got another name's.

    An outbox whose table was dispatched under a name that is not `known` gets the cursor of that name, unless something
    is still under way under that name. Then the outbox gets none, because its rows would be dispatched again.
    """
    names: dict[str, Any] = {"outbox": outbox, "known": list(known)}
    with driver.cursor() as cursor:
        # Nearly always there is a cursor of its table. Only if not, every version of every cursor is read, dead or not.
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT FROM {newest("pipeline_cursor", key="outbox", value="%(outbox)s")} AS c
            WHERE c.table_oid = {_TABLE_OID}
            """,
            names,
        )
        if cursor.rowcount:
            return False
        is_renamed = _rename(cursor, names)
        cursor.execute(
            f"""
            UPDATE pipeline_cursor SET version = version + 1, table_oid = {_TABLE_OID}
            WHERE outbox = %(outbox)s AND table_oid IS DISTINCT FROM {_TABLE_OID}
              AND NOT EXISTS (SELECT FROM pipeline_cursor AS c WHERE {_IS_OF_AN_UNKNOWN_NAME})
            """,
            names,
        )
        cursor.execute(
            f"""
            INSERT INTO pipeline_cursor (outbox, version, cluster, seen, is_rewound, runs, table_oid)
            SELECT %(outbox)s, 0, {_CLUSTER}, '1:1:', false, '[]', {_TABLE_OID}
            WHERE NOT EXISTS (SELECT FROM pipeline_cursor AS c WHERE {_IS_OF_AN_UNKNOWN_NAME})
              AND NOT EXISTS (SELECT FROM pipeline_cursor WHERE outbox = %(outbox)s)
            ON CONFLICT DO NOTHING
            """,
            names,
        )
    return is_renamed


def _rename(cursor: Any, names: dict[str, Any]) -> bool:
    """Give the outbox the cursor of an unknown name that its table had. True if there was one."""
    cursor.execute(
        f"""
        UPDATE pipeline_cursor AS c SET version = version + 1, outbox = %(outbox)s
        WHERE {_IS_OF_AN_UNKNOWN_NAME} AND NOT EXISTS (SELECT FROM pipeline_cursor WHERE outbox = %(outbox)s)
          AND NOT EXISTS (SELECT FROM pipeline_batch AS b WHERE b.outbox = c.outbox)
          AND NOT EXISTS (SELECT FROM pipeline_deadletter AS d WHERE d.outbox = c.outbox)
        """,
        names,
    )
    return bool(cursor.rowcount)


def current_snapshot() -> str:
    """PostgreSQL's snapshot, as text. While no transaction ends, it stays the same."""
    with driver.cursor() as cursor:
        cursor.execute("SELECT pg_current_snapshot()::text")
        return str(cursor.fetchone()[0])


def news(outboxes: Collection[str]) -> list[News]:
    """Return, for each outbox with a cursor that is not paused, what there is to do: new rows, runs, or a rewind.

    The rows and the snapshots that they are compared with are read in one statement. With two, a cursor that another
    dispatcher moves in between would seem to be of another cluster.
    """
    names = {f"outbox_{number}": name for number, name in enumerate(outboxes)}
    # Up to two probes of the index of each outbox: the second only if the first finds no row.
    probes = "\n".join(
        f"""
        WHEN %({parameter})s THEN
            EXISTS (SELECT FROM {by_xid(name)} AS o WHERE o.xid >= c.next_xid AND o.xid < c.end_xid)
            OR EXISTS (SELECT FROM {by_xid(name)} AS o WHERE o.xid = ANY (c.ended_xids))"""
        for parameter, name in names.items()
    )
    with driver.cursor() as cursor:
        # What the probes need of a snapshot is taken from it once (OFFSET 0): with fifty outboxes, it would cost as
        # much as all the probes. One message to the server, and so one transaction, in which alone the settings hold.
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT c.outbox,
                   CASE c.outbox {probes} END,
                   c.runs <> '[]',
                   c.cluster <> {_CLUSTER} OR c.end_xid < c.next_xid
            FROM (
                SELECT outbox, runs, cluster, pg_snapshot_xmax(seen) AS next_xid,
                       pg_snapshot_xmax(pg_current_snapshot()) AS end_xid,
                       -- Without those that are still open: one of them may have a million rows that nobody sees.
                       ARRAY(SELECT xid FROM pg_snapshot_xip(seen) AS xid
                             WHERE pg_visible_in_snapshot(xid, pg_current_snapshot())) AS ended_xids
                FROM {_THEIR_NEWEST} AS newest OFFSET 0
            ) AS c WHERE NOT {IS_PAUSED}
            """,
            {**names, "outboxes": list(outboxes)},
        )
        return [News(*row) for row in cursor.fetchall()]


def lock(outboxes: Sequence[str]) -> dict[str, Cursor]:
    """Return the cursors of the outboxes, locked for this transaction, without those that another dispatcher holds, or
    moves while they are read.

    The transaction's pages are read by the index, too, and it may insert batches.
    """
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INSERTING_BATCHES} {INDEX_PROBES_ONLY}
            SELECT c.outbox, c.version, c.seen::text, c.is_rewound, c.runs::text
            FROM {_THEIR_NEWEST} AS newest
            JOIN pipeline_cursor AS c ON c.outbox = newest.outbox AND c.version = newest.version
            FOR UPDATE OF c SKIP LOCKED
            """,
            {"outboxes": list(outboxes)},
        )
        return {outbox: parsed(*state) for outbox, *state in cursor.fetchall()}


def parsed(version: int, seen: str, is_rewound: bool, runs: str) -> Cursor:  # noqa: FBT001 - a row of the table
    """Return the cursor of a row of the table."""
    found = (
        Run(
            Snapshot.parse(run["seen"]),
            Snapshot.parse(run["target"]),
            run["page"] and Position(*run["page"]),
            run["is_rewound"],
        )
        for run in json.loads(runs)
    )
    return Cursor(version, Snapshot.parse(seen), is_rewound, tuple(found))


#: True if no batch and no dead letter holds the outbox row `o`.
NOT_HELD = f"""(
    o.id NOT IN (SELECT unnest(ids) FROM {BATCHES} AS b WHERE outbox = %(outbox)s)
    AND o.id NOT IN (SELECT row_id FROM pipeline_deadletter WHERE outbox = %(outbox)s))"""


def rewind(model: type[Outbox]) -> bool:
    """If the cursor is of another cluster, rewind it: it has seen nothing of this one. True if it was rewound.

    The xids of restored rows mean nothing here. Xids that this cluster has not reached yet would stay invisible to the
    snapshot until it does, so these rows get the xid of this transaction.
    """
    outbox = {"outbox": model.outbox_name()}
    with transaction.atomic(), driver.cursor() as cursor:
        cursor.execute(
            f"""
            UPDATE pipeline_cursor AS c
            SET version = version + 1, cluster = {_CLUSTER}, seen = '1:1:', is_rewound = true, runs = '[]'
            WHERE outbox = %(outbox)s AND {_MUST_BE_REWOUND}
            """,
            outbox,
        )
        if not cursor.rowcount:
            return False
        cursor.execute(
            f"""
            UPDATE {_table(model.outbox_name())} SET xid = pg_current_xact_id()
            WHERE xid >= pg_snapshot_xmax(pg_current_snapshot()) AND {is_within_limits(model)}
            """
        )
    return True


def read(outbox: str, *, is_locked: bool) -> Cursor | None:
    """Return the cursor, locked for this transaction if asked. None if it looks at all rows anyway: before the first
    look, and after a restore."""
    # One that is moved while we wait for its lock has another version then. So it is asked for by its name, which
    # passes over the dead: seldom, because a person asks.
    one = "pipeline_cursor" if is_locked else newest("pipeline_cursor", key="outbox", value="%(outbox)s")
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
            SELECT c.version, c.seen::text, c.is_rewound, c.runs::text FROM {one} AS c
            WHERE c.outbox = %(outbox)s AND NOT c.is_rewound AND NOT {_MUST_BE_REWOUND}
            {"FOR UPDATE OF c" if is_locked else ""}
            """,
            {"outbox": outbox},
        )
        found = cursor.fetchone()
    return None if found is None else parsed(*found)


def is_within_limits(model: type[Outbox]) -> str:
    """SQL: true for a row that may be updated. A row from before the table's limits may break them, and can only become
    a dead letter."""
    limits = [one for one in model._meta.constraints if isinstance(one, RowLimits)]
    # As in a constraint: unknown (a column is NULL) is not a violation.
    return f"({' AND '.join(condition for one in limits for condition in one.conditions) or 'true'}) IS NOT FALSE"


def by_xid(outbox: str, *, payload: str | None = None) -> str:
    """SQL: `id` and `xid` of an outbox's rows, for a condition on `xid`. Otherwise its index would not be used.

    Other columns come only if asked for: the web's role counts pending rows, but may not read a `payload`.
    """
    columns = ", ".join(map(connection.ops.quote_name, ("id", "xid", *((payload,) if payload else ()))))
    return f"(SELECT {columns} FROM {_table(outbox)} WHERE {TransactionIndex.IN_INDEX})"


def _table(outbox: str) -> str:
    return connection.ops.quote_name(outbox)


def see_everything_uncommitted() -> None:
    """Let every cursor start over, up to a snapshot that also shows what is not committed. Only for a test in a
    transaction that is rolled back."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            WITH beyond AS (
                SELECT 1 + max(xid::text::bigint) AS xid
                FROM (VALUES (pg_current_xact_id()), (pg_snapshot_xmax(pg_current_snapshot()))) AS known (xid)
            )
            UPDATE pipeline_cursor SET
                version = version + 1, seen = pg_current_snapshot(), is_rewound = true,
                runs = jsonb_build_array(jsonb_build_object(
                    'seen', '1:1:', 'target', format('%1$s:%1$s:', beyond.xid), 'page', NULL, 'is_rewound', true))
            FROM beyond
            """
        )


# --- What people and probes ask ----------------------------------------------------------------------------------


def read_last_dispatches() -> dict[str, datetime]:
    """Return when rows of each outbox were last put into batches; outboxes without any batch are absent."""
    with driver.cursor() as cursor:
        cursor.execute(f"SELECT outbox, dispatched_at FROM {EVERY_CURSOR} AS c WHERE dispatched_at IS NOT NULL")
        return dict(cursor.fetchall())
