"""Names of outboxes in the ledger that no outbox class has: found, changed to another name, or given up.

A row's identity is its outbox's name and its id, in the ledger and in the event store. When a class is removed or its
table renamed while events are under way, their batches, windows and dead letters keep the old name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.db import connection

from towpath import driver
from towpath.ledger.batches import BATCHES
from towpath.ledger.cursors import EVERY_CURSOR
from towpath.ledger.marks import INDEX_PROBES_ONLY
from towpath.ledger.open_windows import HAS_UNKNOWN_ROWS, OPEN_WINDOWS

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class UnknownName:
    """A name that no class has, and what the ledger holds under it."""

    outbox: str
    batches: int
    rows: int
    dead_letters: int
    has_table: bool
    #: The outbox whose table is this one's, renamed.
    renamed_to: str | None


def find_unknown(known: Sequence[str]) -> dict[str, UnknownName]:
    """Every name in the ledger that is not known."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""
WITH batches AS (
    SELECT outbox, count(*) AS batches, sum(rows) AS rows
    FROM {BATCHES} AS b WHERE outbox <> ALL(%(known)s) GROUP BY outbox
),
letters AS (
    SELECT outbox, count(*) AS letters FROM pipeline_deadletter WHERE outbox <> ALL(%(known)s) GROUP BY outbox
),
cursors AS (SELECT outbox, table_oid FROM {EVERY_CURSOR} AS c),
names AS (
    SELECT outbox FROM cursors WHERE outbox <> ALL(%(known)s)
    UNION SELECT outbox FROM batches
    UNION SELECT outbox FROM letters
)
SELECT n.outbox, coalesce(b.batches, 0), coalesce(b.rows, 0)::bigint, coalesce(l.letters, 0),
       to_regclass(quote_ident(n.outbox)) IS NOT NULL,
       -- A table keeps its oid when it is renamed.
       (SELECT k FROM unnest(%(known)s::text[]) AS k
        WHERE to_regclass(quote_ident(k))::oid::bigint = c.table_oid LIMIT 1)
FROM names AS n
LEFT JOIN batches AS b USING (outbox)
LEFT JOIN letters AS l USING (outbox)
LEFT JOIN cursors AS c USING (outbox)
ORDER BY n.outbox
""",
            {"known": list(known)},
        )
        return {row[0]: UnknownName(*row) for row in cursor.fetchall()}


def has_table(name: str) -> bool:
    """True if there is a table of this name."""
    with driver.cursor() as cursor:
        cursor.execute("SELECT to_regclass(quote_ident(%(name)s)) IS NOT NULL", {"name": name})
        return bool(cursor.fetchone()[0])


def begin_rename(old: str, new: str) -> None:
    """Give the new name to everything that nothing was written of. For a transaction.

    The locks of the cursors come first, as the dispatcher's. What the batches of the two names hold twice, after a look
    under the new name, stays where it may be written already. Owners of windows that are taken from them find their
    lease lost.
    """
    _execute_all(_BEGIN_RENAME, {"old": old, "new": new})


def finish_rename(old: str, new: str) -> None:
    """Give the new name to what is left, and to the cursor. For a transaction."""
    _execute_all(_FINISH_RENAME, {"old": old, "new": new})


def discard(name: str) -> None:
    """Delete what the ledger has under the name, for good. For a transaction.

    The owner of a window with its rows finds the lease lost; what else is in it is delivered without them.
    """
    _execute_all(_DISCARD, {"name": name})


def has_begun_windows(name: str) -> bool:
    """True if rows of the name are in windows of which something may have been written."""
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
            SELECT EXISTS (
                SELECT FROM pipeline_window WHERE is_write_begun
                AND id = ANY(ARRAY(SELECT window_id FROM {BATCHES} AS b WHERE outbox = %(name)s))
            )
            """,
            {"name": name},
        )
        return bool(cursor.fetchone()[0])


def free_known(known: Sequence[str]) -> None:
    """Take the batches of unknown names out of windows of which nothing was written: what shares them is delivered.

    Only from windows that nobody holds. Those that were begun stay as they are: their rows may be stored.
    """
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{INDEX_PROBES_ONLY}
WITH mixed AS MATERIALIZED (
    SELECT id FROM pipeline_window AS w
    WHERE id = ANY(ARRAY(
          SELECT id FROM {OPEN_WINDOWS} AS open WHERE NOT is_write_begun AND lease_until < statement_timestamp()
      ))
      AND acked_at IS NULL AND NOT is_write_begun AND lease_until < statement_timestamp()
      AND EXISTS (SELECT FROM pipeline_batch AS b WHERE b.window_id = w.id AND outbox = ANY(%(known)s) OFFSET 0)
      AND {HAS_UNKNOWN_ROWS}
    FOR UPDATE SKIP LOCKED
),
members AS MATERIALIZED (
    SELECT id, window_id, outbox, bytes FROM pipeline_batch
    WHERE window_id = ANY(ARRAY(SELECT id FROM mixed)) AND outbox <> ALL(%(known)s)
),
freed AS (
    UPDATE pipeline_batch SET window_id = NULL WHERE id = ANY(ARRAY(SELECT id FROM members)) RETURNING id
),
by_window AS (
    SELECT window_id AS id, array_agg(outbox) AS outboxes, sum(bytes) AS bytes FROM members GROUP BY window_id
)
UPDATE pipeline_window AS w
SET rows = w.rows - f.outboxes, bytes = w.bytes - f.bytes, lease_token = gen_random_uuid()
FROM by_window AS f WHERE w.id = f.id
""",
            {"known": list(known)},
        )


#: Tables with the columns of an outbox that no class has. The default of xid tells an outbox from a copy of one
#: (CREATE TABLE ... AS).
_TABLES_LIKE_OUTBOXES = """
SELECT c.relname FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'xid' AND a.atttypid = 'xid8'::regtype
JOIN pg_attribute AS b ON b.attrelid = c.oid AND b.attname = 'bound' AND b.atttypid = 'jsonb'::regtype
JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relkind = 'r' AND pg_table_is_visible(c.oid) AND has_table_privilege(c.oid, 'SELECT')
  AND c.relname <> ALL(%(known)s) AND pg_get_expr(d.adbin, d.adrelid) = 'pg_current_xact_id()'
ORDER BY 1
"""


def tables_with_rows(*, besides: Sequence[str]) -> list[str]:
    """Tables of outboxes that have rows, besides these."""
    with driver.cursor() as cursor:
        cursor.execute(_TABLES_LIKE_OUTBOXES, {"known": list(besides)})
        found = []
        for (table,) in cursor.fetchall():
            cursor.execute(f"SELECT EXISTS (SELECT FROM {connection.ops.quote_name(table)})")
            if cursor.fetchone()[0]:
                found.append(table)
    return found


def _without_what_another_holds(one: str, other: str, *, if_begun: bool) -> str:
    """Take out of the batches of `one` name, unless something was written of them, the rows that the other's hold."""
    return f"""
UPDATE pipeline_batch AS b SET ids = left_over.ids, rows = cardinality(left_over.ids)
FROM (
    SELECT b.id, ARRAY(
        SELECT unnest(b.ids)
        EXCEPT (
            SELECT unnest(o.ids) FROM {BATCHES} AS o LEFT JOIN pipeline_window AS ow ON ow.id = o.window_id
            WHERE o.outbox = %({other})s {"AND ow.is_write_begun" if if_begun else ""}
            UNION ALL
            SELECT row_id FROM pipeline_deadletter WHERE outbox = %({other})s
        )
        ORDER BY 1
    ) AS ids
    FROM {BATCHES} AS b LEFT JOIN pipeline_window AS w ON w.id = b.window_id
    WHERE b.outbox = %({one})s AND w.is_write_begun IS NOT TRUE
) AS left_over
WHERE b.id = left_over.id AND b.rows <> cardinality(left_over.ids)
"""


_DELETE_EMPTY_WINDOWS = f"""
DELETE FROM pipeline_window WHERE id = ANY(ARRAY(
    SELECT id FROM {OPEN_WINDOWS} AS w
    WHERE NOT EXISTS (SELECT FROM pipeline_batch AS b WHERE b.window_id = w.id OFFSET 0)
)) AND acked_at IS NULL"""

_BEGIN_RENAME = (
    "SELECT outbox FROM pipeline_cursor WHERE outbox IN (%(old)s, %(new)s) ORDER BY outbox FOR UPDATE",
    # A batch of either name whose window has not been begun is one that nothing was written of.
    f"""
UPDATE pipeline_window SET lease_token = gen_random_uuid(), lease_until = clock_timestamp()
WHERE id = ANY(ARRAY(SELECT window_id FROM {BATCHES} AS b WHERE outbox = %(old)s))
  AND acked_at IS NULL AND NOT is_write_begun
""",
    _without_what_another_holds("new", "old", if_begun=True),
    _without_what_another_holds("old", "new", if_begun=False),
    "DELETE FROM pipeline_batch WHERE outbox IN (%(old)s, %(new)s) AND rows = 0",
    """
UPDATE pipeline_batch AS b SET outbox = %(new)s
WHERE outbox = %(old)s
  AND NOT EXISTS (SELECT FROM pipeline_window AS w WHERE w.id = b.window_id AND w.is_write_begun)
""",
    f"{_DELETE_EMPTY_WINDOWS} AND NOT is_write_begun",
    f"""
UPDATE pipeline_window AS w SET rows = b.rows
FROM (
    SELECT window_id, jsonb_object_agg(outbox, rows) AS rows
    FROM (SELECT window_id, outbox, sum(rows) AS rows FROM {BATCHES} AS b GROUP BY window_id, outbox) AS by_outbox
    WHERE window_id IS NOT NULL GROUP BY window_id
) AS b
WHERE b.window_id = w.id AND NOT w.is_write_begun AND b.rows <> w.rows
""",
)

_FINISH_RENAME = (
    "UPDATE pipeline_batch SET outbox = %(new)s WHERE outbox = %(old)s",
    """
DELETE FROM pipeline_deadletter AS d
WHERE outbox = %(old)s
  AND EXISTS (SELECT FROM pipeline_deadletter AS n WHERE n.outbox = %(new)s AND n.row_id = d.row_id)
""",
    "UPDATE pipeline_deadletter SET outbox = %(new)s WHERE outbox = %(old)s",
    # The old cursor knows how far the table was dispatched, unless there has been a look under the new name since.
    """
DELETE FROM pipeline_cursor
WHERE outbox = %(new)s AND dispatched_at IS NULL
  AND EXISTS (SELECT FROM pipeline_cursor WHERE outbox = %(old)s)
""",
    """
UPDATE pipeline_cursor SET outbox = %(new)s
WHERE outbox = %(old)s AND NOT EXISTS (SELECT FROM pipeline_cursor WHERE outbox = %(new)s)
""",
    "DELETE FROM pipeline_cursor WHERE outbox = %(old)s",
)

_DISCARD = (
    "SELECT outbox FROM pipeline_cursor WHERE outbox = %(name)s FOR UPDATE",
    """
WITH gone AS (
    DELETE FROM pipeline_batch WHERE outbox = %(name)s RETURNING window_id, bytes
),
by_window AS (
    SELECT window_id, sum(bytes) AS bytes FROM gone WHERE window_id IS NOT NULL GROUP BY window_id
)
UPDATE pipeline_window AS w
SET rows = w.rows - %(name)s, bytes = w.bytes - g.bytes, lease_token = gen_random_uuid(),
    lease_until = clock_timestamp()
FROM by_window AS g WHERE w.id = g.window_id AND w.acked_at IS NULL
""",
    _DELETE_EMPTY_WINDOWS,
    "DELETE FROM pipeline_deadletter WHERE outbox = %(name)s",
    "DELETE FROM pipeline_cursor WHERE outbox = %(name)s",
)


def _execute_all(statements: Sequence[str], names: dict[str, str]) -> None:
    with driver.cursor() as cursor:
        cursor.execute(INDEX_PROBES_ONLY)
        for sql in statements:
            cursor.execute(sql, names)
