"""The tables of outboxes and ledger, as they are in PostgreSQL now: changes by hand that lose events.

Read from catalogues, for `pipeline doctor`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath import driver
from towpath.ledger.batches import largest_ids_in_flight
from towpath.ledger.deadletters import largest_dead_ids
from towpath.ledger.tables import ledger_tables
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from collections.abc import Iterator


#: A smaller index is not worth a rebuild. Vacuum reads the whole index each time.
_LARGE_INDEX_BYTES = 1 << 30
#: The index on (xid, id) levels off at this many bytes for each row that waits or has died since the last vacuum.
_BYTES_OF_A_ROW = 64
#: An index that is this many times larger was left by an earlier backlog, and is nearly empty.
_TIMES_TOO_LARGE = 4


def problems() -> Iterator[str]:
    """Yield what is wrong with a table, and the statement that repairs it."""
    outboxes = list(all_outboxes())
    # Read before their sequences, which only grow.
    held = _held()
    for sql, tables in (
        (_UNLOGGED, [*outboxes, *ledger_tables()]),
        (_NO_TABLE, [*outboxes, *ledger_tables()]),
        (_DEFAULT, outboxes),
        (_INDEX, outboxes),
        (_POINTED_TO, outboxes),
        (_SEQUENCE, outboxes),
        (_LARGE_INDEX, outboxes),
    ):
        with driver.cursor() as cursor:
            cursor.execute(
                f"WITH ours AS ({_OURS}) {sql}",
                {
                    "tables": tables,
                    "holders": [*held],
                    "held": [*held.values()],
                    "large": _LARGE_INDEX_BYTES,
                    "of_a_row": _BYTES_OF_A_ROW * _TIMES_TOO_LARGE,
                },
            )
            found = cursor.fetchall()
        yield from (text for (text,) in found)


def _held() -> dict[str, int]:
    """Return the largest row id that the ledger holds of each outbox."""
    in_flight, dead = largest_ids_in_flight(), largest_dead_ids()
    return {name: max(in_flight.get(name, 0), dead.get(name, 0)) for name in in_flight.keys() | dead.keys()}


_OURS = """
SELECT c.oid, c.relname, c.relkind, c.relpersistence FROM unnest(%(tables)s::text[]) AS name
JOIN pg_class AS c ON c.oid = to_regclass(quote_ident(name))
"""
_UNLOGGED = """
SELECT format('%%1$s is unlogged: a crash of PostgreSQL empties it. Run ALTER TABLE %%1$I SET LOGGED', relname)
FROM ours WHERE relpersistence <> 'p' ORDER BY relname
"""
_NO_TABLE = """
SELECT format('%%s is not an ordinary table (relkind %%s): drop it, and let `migrate` create it', relname, relkind)
FROM ours WHERE relkind <> 'r' ORDER BY relname
"""
_DEFAULT = """
SELECT format('%%1$s: xid lacks its default, so rows are never dispatched.'
              ' Run ALTER TABLE %%1$I ALTER COLUMN xid SET DEFAULT pg_current_xact_id()', o.relname)
FROM ours AS o JOIN pg_attribute AS a ON a.attrelid = o.oid AND a.attname = 'xid'
LEFT JOIN pg_attrdef AS d ON d.adrelid = o.oid AND d.adnum = a.attnum
WHERE pg_get_expr(d.adbin, d.adrelid) IS DISTINCT FROM 'pg_current_xact_id()' ORDER BY 1
"""
_INDEX = """
SELECT format('%%1$s has no valid index on (xid, id): each look of the dispatcher reads the whole table.'
              ' Run CREATE INDEX CONCURRENTLY ON %%1$I (xid, id) WHERE xid >= ''0''', o.relname)
FROM ours AS o WHERE NOT EXISTS (
    SELECT FROM pg_index AS i WHERE i.indrelid = o.oid AND i.indisvalid
    AND coalesce(pg_get_expr(i.indpred, i.indrelid), '') IN ('', '(xid >= ''0''::xid8)')
    AND pg_get_indexdef(i.indexrelid, 1, true) = 'xid' AND pg_get_indexdef(i.indexrelid, 2, true) = 'id'
) ORDER BY 1
"""
_POINTED_TO = """
SELECT format('%%1$s: delivered rows cannot be deleted, because %%2$s points to them.'
              ' Run ALTER TABLE %%2$s DROP CONSTRAINT %%3$I', o.relname, c.conrelid::regclass, c.conname)
FROM ours AS o JOIN pg_constraint AS c ON c.confrelid = o.oid AND c.contype = 'f' AND c.confdeltype IN ('a', 'r')
ORDER BY 1
"""
#: Two rows in flight with the same id would be taken for one.
_SEQUENCE = """
SELECT format('%%1$s reuses ids that are in flight (up to %%2$s): run SELECT setval(%%3$L, %%2$s)',
              relname, held, sequence)
FROM (
    SELECT o.relname, s.sequence, h.held, CASE WHEN has_sequence_privilege(s.sequence, 'SELECT, USAGE')
        THEN pg_sequence_last_value(s.sequence::regclass) END AS last,
        has_sequence_privilege(s.sequence, 'SELECT, USAGE') AS is_known
    FROM ours AS o JOIN unnest(%(holders)s::text[], %(held)s::bigint[]) AS h (outbox, held) ON h.outbox = o.relname
    CROSS JOIN LATERAL (SELECT pg_get_serial_sequence(quote_ident(o.relname), 'id') AS sequence) AS s
    WHERE s.sequence IS NOT NULL
) AS sequences WHERE is_known AND coalesce(last, 0) < held ORDER BY 1
"""
_LARGE_INDEX = """
SELECT format('%%s is nearly empty, but vacuum reads %%s of it each time. Run REINDEX INDEX CONCURRENTLY %%s'
              ' (docs/runbook.md, How to make an outbox smaller)', i.indexrelid::regclass, pg_size_pretty(size),
              i.indexrelid::regclass)
FROM ours AS o JOIN pg_index AS i ON i.indrelid = o.oid, pg_relation_size(i.indexrelid) AS size
WHERE size > %(large)s
  AND size > %(of_a_row)s * (pg_stat_get_live_tuples(o.oid) + pg_stat_get_dead_tuples(o.oid)) ORDER BY 1
"""
