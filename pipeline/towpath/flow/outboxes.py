"""Names in the ledger that no outbox class has: found, renamed to the class that has their rows now, or given up.

A row's identity is its outbox's name and its id, in the ledger and in the event store. When a class is removed or its
table renamed while events are under way, their batches, windows and dead letters keep the old name. Nobody touches them
then: each waits for a program that knows the name, or for a person with one of these commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from django.db import connection, transaction

from towpath.errors import OutboxInUse
from towpath.events import OutboxDiscarded
from towpath.flow.delivery import Delivery, deliver
from towpath.ledger.windows import claim_expired
from towpath.outbox.models import all_outboxes
from towpath.outbox.publishing import publish as publish_event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.backends.utils import CursorWrapper

    from towpath.eventlog.store import EventStore

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Unknown:
    """A name that no class has, and what the ledger holds under it."""

    outbox: str
    batches: int
    rows: int
    dead_letters: int
    has_table: bool
    #: The outbox whose table is this one's, renamed.
    renamed_to: str | None

    @property
    def is_empty(self) -> bool:
        """True if nothing but a cursor is left of it."""
        return not (self.batches or self.dead_letters)

    def problem(self) -> str:
        """For `status`: what waits under the name, and the way out."""
        held = f"{self.batches} batch(es) of {self.rows:,} row(s) and {self.dead_letters} dead letter(s)"
        return f"{self.outbox}: no outbox class has this name, under which the ledger has {held}. {self._way_out()}"

    def _way_out(self) -> str:
        command = "python manage.py pipeline outboxes"
        if self.renamed_to:
            return f"Its table is now {self.renamed_to}: run `{command} rename {self.outbox} {self.renamed_to}`"
        if self.has_table:
            return (
                "Its table is there: deploy code that has the class (this may be an older program in a rolling update),"
                f" or give the events up with `{command} discard {self.outbox}`"
            )
        return (
            f"Its table is gone. If it was renamed, run `{command} rename {self.outbox} NEW`; if it was dropped,"
            f" `{command} discard {self.outbox}`"
        )


def find_unknown(cursor: CursorWrapper) -> list[Unknown]:
    """Every name in the ledger that no class has."""
    known = list(all_outboxes())
    cursor.execute(_UNKNOWN, {"known": known})
    return [Unknown(*row) for row in cursor.fetchall()]


#: A table keeps its oid when it is renamed.
_UNKNOWN = """
WITH batches AS (
    SELECT outbox, count(*) AS batches, sum(rows) AS rows FROM pipeline_batch
    WHERE outbox <> ALL(%(known)s) GROUP BY outbox
), letters AS (
    SELECT outbox, count(*) AS letters FROM pipeline_deadletter WHERE outbox <> ALL(%(known)s) GROUP BY outbox
), names AS (
    SELECT outbox FROM pipeline_cursor WHERE outbox <> ALL(%(known)s)
    UNION SELECT outbox FROM batches UNION SELECT outbox FROM letters
)
SELECT n.outbox, coalesce(b.batches, 0), coalesce(b.rows, 0)::bigint, coalesce(l.letters, 0),
       to_regclass(quote_ident(n.outbox)) IS NOT NULL,
       (SELECT k FROM unnest(%(known)s::text[]) AS k
        WHERE to_regclass(quote_ident(k))::oid::bigint = c.table_oid LIMIT 1)
FROM names AS n LEFT JOIN batches AS b USING (outbox) LEFT JOIN letters AS l USING (outbox)
LEFT JOIN pipeline_cursor AS c USING (outbox)
ORDER BY n.outbox
"""


def problems(cursor: CursorWrapper) -> Iterator[str]:
    """Of each unknown name, what `status` says about it."""
    found = find_unknown(cursor)
    for unknown in found:
        yield unknown.problem()
    cursor.execute(_TABLES_WITHOUT_CLASS, [[*all_outboxes(), *(unknown.outbox for unknown in found)]])
    for (table,) in cursor.fetchall():
        cursor.execute(f"SELECT EXISTS (SELECT FROM {connection.ops.quote_name(table)})")
        if cursor.fetchone()[0]:
            yield (
                f"{table}: no outbox class has this name, and its table has undelivered rows. Deploy code that has the"
                " class (this may be an older program in a rolling update), or delete the rows"
            )


#: The ledger knows an outbox from the first look of a dispatcher that has its class, until it is discarded. The default
#: of xid tells an outbox from a copy of one (CREATE TABLE ... AS).
_TABLES_WITHOUT_CLASS = """
SELECT c.relname FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'xid' AND a.atttypid = 'xid8'::regtype
JOIN pg_attribute AS b ON b.attrelid = c.oid AND b.attname = 'bound' AND b.atttypid = 'jsonb'::regtype
JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relkind = 'r' AND pg_table_is_visible(c.oid) AND has_table_privilege(c.oid, 'SELECT')
  AND c.relname <> ALL(%s) AND pg_get_expr(d.adbin, d.adrelid) = 'pg_current_xact_id()'
ORDER BY 1
"""


def rename(old: str, new: str, store: EventStore, *, is_sure: bool = False) -> None:
    """Let the outbox `new`, whose table was `old` once, have what the ledger has under that name; each event once.

    What may be stored as `old` already is delivered under that name: its window is replayed as it was, and the store
    tells which rows it has. Everything else gets the new name. Can be repeated. Raises OutboxInUse, which says how.
    """
    _check_rename(old, new, is_sure=is_sure)
    with transaction.atomic(), connection.cursor() as cursor:
        for sql in _RENAME:
            cursor.execute(sql, {"old": old, "new": new})
    while _has_windows(old):
        window = claim_expired(renamed={old: new})
        if window is None:
            raise OutboxInUse(f"A worker has a window of {old}, or has had one until now: run this again in a minute.")
        if deliver(window, store) is not Delivery.ACKED:
            raise OutboxInUse(
                f"A window of {old} could not be delivered ({_error_of(window.id)}): then run this again."
            )
    with transaction.atomic(), connection.cursor() as cursor:
        for sql in _RENAME_REST:
            cursor.execute(sql, {"old": old, "new": new})
    log.warning("outbox_renamed", outbox=new, formerly=old)


def _check_rename(old: str, new: str, *, is_sure: bool) -> None:
    outboxes = all_outboxes()
    with connection.cursor() as cursor:
        found = {one.outbox: one for one in find_unknown(cursor)}
    if old in outboxes:
        raise OutboxInUse(f"{old} is the outbox of {outboxes[old].__name__}: only a name that no class has is renamed.")
    if old not in found:
        raise OutboxInUse(f"The ledger has nothing under {old}: see `pipeline outboxes list`.")
    if new not in outboxes:
        raise OutboxInUse(f"No outbox class has the name {new}: name one of {', '.join(outboxes)}.")
    if found[old].has_table:
        raise OutboxInUse(
            f"The table {old} is still there, so its rows are not in {new}. Deploy code that has its class."
        )
    if found[old].renamed_to != new and not is_sure:
        raise OutboxInUse(
            f"Nothing says that the table {new} was {old} once. If its rows have the ids that they had there,"
            " add --yes; else their events would be counted as missing."
        )


#: The locks of the cursors come first, as the dispatcher's. What its batches hold twice, after a look under the new
#: name, stays where it may be written already. Owners of windows that are taken from them find their lease lost.
_RENAME = (
    "SELECT outbox FROM pipeline_cursor WHERE outbox IN (%(old)s, %(new)s) ORDER BY outbox FOR UPDATE",
    # A batch of either name whose window has not been begun is one that nothing was written of.
    """
UPDATE pipeline_window AS w SET lease_token = gen_random_uuid(), lease_until = clock_timestamp()
WHERE acked_at IS NULL AND NOT is_write_begun
AND EXISTS (SELECT FROM pipeline_batch AS b WHERE b.window_id = w.id AND b.outbox = %(old)s)
""",
    *(
        f"""
UPDATE pipeline_batch AS b SET ids = left_over.ids, rows = cardinality(left_over.ids)
FROM (
    SELECT b.id, ARRAY(SELECT unnest(b.ids) EXCEPT (
        SELECT unnest(o.ids) FROM pipeline_batch AS o LEFT JOIN pipeline_window AS ow ON ow.id = o.window_id
        WHERE o.outbox = %({other})s {only_begun}
        UNION ALL SELECT row_id FROM pipeline_deadletter WHERE outbox = %({other})s
    ) ORDER BY 1) AS ids
    FROM pipeline_batch AS b LEFT JOIN pipeline_window AS w ON w.id = b.window_id
    WHERE b.outbox = %({one})s AND w.is_write_begun IS NOT TRUE
) AS left_over
WHERE b.id = left_over.id AND b.rows <> cardinality(left_over.ids)
"""
        for one, other, only_begun in (("new", "old", "AND ow.is_write_begun"), ("old", "new", ""))
    ),
    "DELETE FROM pipeline_batch WHERE outbox IN (%(old)s, %(new)s) AND rows = 0",
    """
UPDATE pipeline_batch AS b SET outbox = %(new)s
WHERE outbox = %(old)s
AND NOT EXISTS (SELECT FROM pipeline_window AS w WHERE w.id = b.window_id AND w.is_write_begun)
""",
    """
DELETE FROM pipeline_window AS w WHERE acked_at IS NULL AND NOT is_write_begun
AND NOT EXISTS (SELECT FROM pipeline_batch AS b WHERE b.window_id = w.id)
""",
    """
UPDATE pipeline_window AS w SET rows = b.rows
FROM (
    SELECT window_id, jsonb_object_agg(outbox, rows) AS rows
    FROM (SELECT window_id, outbox, sum(rows) AS rows FROM pipeline_batch GROUP BY window_id, outbox) AS by_outbox
    WHERE window_id IS NOT NULL GROUP BY window_id
) AS b
WHERE b.window_id = w.id AND NOT w.is_write_begun AND b.rows <> w.rows
""",
)
_RENAME_REST = (
    "UPDATE pipeline_batch SET outbox = %(new)s WHERE outbox = %(old)s",
    """
DELETE FROM pipeline_deadletter AS d WHERE outbox = %(old)s
AND EXISTS (SELECT FROM pipeline_deadletter AS n WHERE n.outbox = %(new)s AND n.row_id = d.row_id)
""",
    "UPDATE pipeline_deadletter SET outbox = %(new)s WHERE outbox = %(old)s",
    # The old cursor knows how far the table was dispatched, unless there has been a look under the new name since.
    """
DELETE FROM pipeline_cursor WHERE outbox = %(new)s AND dispatched_at IS NULL
AND EXISTS (SELECT FROM pipeline_cursor WHERE outbox = %(old)s)
""",
    """
UPDATE pipeline_cursor SET outbox = %(new)s WHERE outbox = %(old)s
AND NOT EXISTS (SELECT FROM pipeline_cursor WHERE outbox = %(new)s)
""",
    "DELETE FROM pipeline_cursor WHERE outbox = %(old)s",
)


def _has_windows(name: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pipeline_batch AS b JOIN pipeline_window AS w ON w.id = b.window_id"
            " WHERE b.outbox = %s AND w.is_write_begun)",
            [name],
        )
        return bool(cursor.fetchone()[0])


def _error_of(window_id: object) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT last_error FROM pipeline_window WHERE id = %s", [str(window_id)])
        found: Any = cursor.fetchone()
    return (found[0] if found else "") or "somebody else has it now"


def discard(name: str, *, by: str) -> Unknown:
    """Give up what the ledger has under a name that no class has. That it was done is an event itself, in the same
    transaction. Rows of a table of that name stay where they are. Raises OutboxInUse."""
    if name in all_outboxes():
        raise OutboxInUse(f"{name} is the outbox of {all_outboxes()[name].__name__}: its events are delivered.")
    with transaction.atomic(), connection.cursor() as cursor:
        found = {one.outbox: one for one in find_unknown(cursor)}
        if name not in found:
            raise OutboxInUse(f"The ledger has nothing under {name}: see `pipeline outboxes list`.")
        unknown = found[name]
        publish_event(
            OutboxDiscarded(outbox=name, rows=unknown.rows, dead_letters=unknown.dead_letters, discarded_by=by)
        )
        for sql in _DISCARD:
            cursor.execute(sql, {"name": name})
    log.warning("outbox_discarded", outbox=name, rows=unknown.rows, dead_letters=unknown.dead_letters, by=by)
    return unknown


_DISCARD = (
    "SELECT outbox FROM pipeline_cursor WHERE outbox = %(name)s FOR UPDATE",
    # Whoever has such a window finds its lease lost. What else is in it is delivered without the name's rows.
    """
WITH gone AS (
    DELETE FROM pipeline_batch WHERE outbox = %(name)s RETURNING window_id, bytes
), by_window AS (
    SELECT window_id, sum(bytes) AS bytes FROM gone WHERE window_id IS NOT NULL GROUP BY window_id
)
UPDATE pipeline_window AS w SET rows = w.rows - %(name)s, bytes = w.bytes - g.bytes, lease_token = gen_random_uuid(),
                                lease_until = clock_timestamp()
FROM by_window AS g WHERE w.id = g.window_id AND w.acked_at IS NULL
""",
    """
DELETE FROM pipeline_window AS w WHERE acked_at IS NULL
AND NOT EXISTS (SELECT FROM pipeline_batch AS b WHERE b.window_id = w.id)
""",
    "DELETE FROM pipeline_deadletter WHERE outbox = %(name)s",
    "DELETE FROM pipeline_cursor WHERE outbox = %(name)s",
)


def free_others() -> None:
    """Take the batches of unknown names out of windows of which nothing was written: what shares them is delivered.

    Only from windows that nobody holds. Those that were begun stay as they are: their rows may be stored.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
WITH mixed AS (
    SELECT id FROM pipeline_window AS w
    WHERE acked_at IS NULL AND NOT is_write_begun AND lease_until < clock_timestamp()
    AND EXISTS (SELECT FROM pipeline_batch AS b WHERE b.window_id = w.id AND outbox = ANY(%(known)s))
    AND EXISTS (SELECT FROM pipeline_batch AS b WHERE b.window_id = w.id AND outbox <> ALL(%(known)s))
    FOR UPDATE SKIP LOCKED
), freed AS (
    UPDATE pipeline_batch AS b SET window_id = NULL FROM mixed
    WHERE b.window_id = mixed.id AND outbox <> ALL(%(known)s) RETURNING mixed.id, b.outbox, b.bytes
)
UPDATE pipeline_window AS w SET rows = w.rows - f.outboxes, bytes = w.bytes - f.bytes, lease_token = gen_random_uuid()
FROM (SELECT id, array_agg(outbox) AS outboxes, sum(bytes) AS bytes FROM freed GROUP BY id) AS f WHERE w.id = f.id
""",
            {"known": list(all_outboxes())},
        )
