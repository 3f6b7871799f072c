"""Low-water marks: numbers below which a scan finds nothing it looks for, other than what is flagged as late.

While an old transaction keeps vacuum from its work, each row that was ever deleted or updated leaves its index entries
behind, and a scan reads them again each time. So scans begin at a mark. Such a row is never looked for below it.

Why a mark is exact: a row's number is drawn before the row is visible. So whoever inserts rows that a mark is about
takes a lock first, shared with all others that insert. Whoever moves the mark takes it alone and only then, in a
statement of its own with a younger snapshot, looks for the lowest row: no number below its highest is still to appear.
The lock ends with the transaction, at the server: a process that dies or stalls holds it no longer than its connection.

A mark is a row for each version, because the newest version of a row that is updated all the time could only be found
past all the dead ones. The newest has the highest number, and an index that is read backwards meets it first. If the
power goes, the last moves may be lost: a mark that is too low costs a few reads, and misses nothing.
"""

from __future__ import annotations

from typing import Literal

Mark = Literal["windows", "batches", "verified", "purged", "swept"]

#: Of advisory locks, PostgreSQL knows nothing but two numbers. The first says that they are Towpath's ("towp"), the
#: second is the table, so that two schemas of one database do not wait for each other.
_LOCK = "(1953462128, '{table}'::regclass::oid::int)"

#: Before an INSERT into the table: in the same transaction, best in the same message. Waits for a mark that is being
#: moved, some milliseconds. Before the locks of rows, so that nobody waits for somebody that waits for a mark.
INSERTING_WINDOWS = f"SELECT pg_advisory_xact_lock_shared{_LOCK.format(table='pipeline_window')};"
INSERTING_BATCHES = f"SELECT pg_advisory_xact_lock_shared{_LOCK.format(table='pipeline_batch')};"


def value_of(mark: Mark) -> str:
    """SQL: the mark, as a number to compare with; 0 until it was first moved."""
    return f"coalesce((SELECT value FROM pipeline_mark WHERE name = '{mark}' ORDER BY version DESC LIMIT 1), 0)"
