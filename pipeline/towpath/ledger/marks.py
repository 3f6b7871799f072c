"""Low-water marks: numbers below which a scan finds nothing it looks for, other than what is flagged as late.

While an old transaction holds back vacuum, each deleted or updated row leaves its index entries behind, and every scan
reads them again. So no scan begins at the lowest number. It begins at a mark, and a row that stays behind while many
others pass is flagged as late, and found by a separate index.

A row's number is drawn before the row is visible, so a mark could pass a row that is still to appear. A lock prevents
that. Each transaction that inserts rows takes it first, shared with the others. The one that moves the mark takes it
exclusively, and then, in a statement of its own with a younger snapshot, looks for the lowest row. The lock ends with
its transaction. A process that stalls or dies while it inserts keeps the marks where they are, until its connection
ends, and nobody waits for that. The move is one message to the server, so no process can stall in the middle of it.

A mark is a row for each version, because the newest version of a row that is updated all the time could only be found
past all the dead ones. The newest has the highest number, and an index that is read backwards meets it first. If the
power fails, the last moves may be lost: a mark that is too low costs a few reads, and misses nothing.
"""

from __future__ import annotations

from typing import Literal

Mark = Literal["windows", "batches", "verified", "purged", "swept", "gone", "sampled", "packed"]

#: Each look is a few probes of indexes, whatever the planner believes: for a table that is empty now, it would read
#: every page that a backlog left behind. Sent in one message with a statement, it holds for that statement only.
#:
#: It takes an index whose rows it believes dead for as cheap to read as to search. So a row is looked up by a value or
#: an array (`= ANY(ARRAY(...))`), not by a join, and what is asked of each row (EXISTS) has an OFFSET 0, which keeps it
#: from being made one.
INDEX_PROBES_ONLY = """
SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;"""

#: The settings that it changes.
PLANNER_SETTINGS = ["enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"]

#: For PostgreSQL, an advisory lock is just two numbers. The first marks it as Towpath's ("towp"). The second is the
#: table, so that two schemas of one database do not wait for each other.
_LOCK = "(1953462128, '{table}'::regclass::oid::int)"

#: Put before an INSERT into the table, in the same transaction and best in the same message. It waits some milliseconds
#: if a mark is being moved.
INSERTING_WINDOWS = f"SELECT pg_advisory_xact_lock_shared{_LOCK.format(table='pipeline_window')};"
INSERTING_BATCHES = f"SELECT pg_advisory_xact_lock_shared{_LOCK.format(table='pipeline_batch')};"

#: A row that is left behind is late once this many have passed it, and twice as many as wait with it: then most entries
#: between it and the newest are dead. It is not a number of seconds, in which any number of rows may pass.
PASSED = 100


#: The year 9998.
_LATEST = 253_339_228_800


def value_of(mark: Mark) -> str:
    """SQL: the mark, as a number to compare with; 0 until it is first moved."""
    return f"coalesce((SELECT value FROM {_newest(mark)} AS newest), 0)"


def moment_of(mark: Mark, *others: Mark, seconds_later: int = 0) -> str:
    """SQL: the highest of the marks, as seconds since 1970, as a time. Somebody may have written any number: it counts
    as 1970, or as the year 9998."""
    values = ", ".join(value_of(one) for one in (mark, *others))
    return f"to_timestamp(least(greatest({values}, 0), {_LATEST}) + {seconds_later})"


def _newest(mark: Mark) -> str:
    return f"(SELECT version, value FROM pipeline_mark WHERE name = '{mark}' ORDER BY version DESC LIMIT 1)"


def move(mark: Mark, *, to: str) -> str:
    """SQL, a part of WITH: move the mark to the one number that the query `to` selects; NULL leaves it where it is.

    If another session moves it at the same time, one of the two does nothing.
    """
    return f"""
    {mark}_moved AS (
        INSERT INTO pipeline_mark (name, version, value)
        SELECT '{mark}', coalesce(newest.version, 0) + 1, wanted.value
        FROM ({to}) AS wanted (value) LEFT JOIN {_newest(mark)} AS newest ON true
        WHERE wanted.value <> coalesce(newest.value, 0)
        ON CONFLICT DO NOTHING RETURNING version - 1 AS before
    ), {mark}_removed AS (
        DELETE FROM pipeline_mark WHERE name = '{mark}' AND version = (SELECT before FROM {mark}_moved)
    )"""


def _move_alone(mark: Mark, *, table: str, number: str, is_passed: str) -> str:
    """SQL, a part of WITH: flag what was left behind, and move the mark to the lowest number that is not.

    If there is none, the mark goes above the last number that was drawn, if this role may see it. If the mark is
    already above that, the sequence was set back, as in a copy of the database that lacks it: then the mark starts
    over.
    """
    lowest = f"""
        SELECT CASE WHEN drawn.last + 1 < {value_of(mark)} THEN 0 ELSE coalesce(
            (SELECT min(number) FROM {mark}_here WHERE number <> ALL(ARRAY(SELECT {number} FROM {mark}_late))),
            drawn.last + 1
        ) END FROM {mark}_drawn AS drawn"""
    return f"""
    {mark}_here AS MATERIALIZED (
        SELECT id, {number} AS number FROM {table}
        WHERE current_setting('towpath.moves_{mark}')::bool
          AND {number} >= {value_of(mark)} AND NOT ({is_passed}) AND NOT is_late
    ), {mark}_drawn AS MATERIALIZED (
        SELECT CASE WHEN has_sequence_privilege(numbers, 'SELECT')
               THEN coalesce(pg_sequence_last_value(numbers), 0) END AS last
        FROM CAST(pg_get_serial_sequence('{table}', '{number}') AS regclass) AS numbers
        WHERE current_setting('towpath.moves_{mark}')::bool
    ), {mark}_late AS (
        UPDATE {table} SET is_late = true WHERE id = ANY(ARRAY(
            -- A row that is locked is left out: the transaction that has it may be waiting for the mark's lock.
            SELECT id FROM {table} WHERE id = ANY(ARRAY(
                SELECT id FROM {mark}_here WHERE number < (
                    SELECT coalesce((SELECT last FROM {mark}_drawn), max(number)) - %(passed)s - 2 * count(*)
                    FROM {mark}_here
                )
            )) AND NOT ({is_passed})
            FOR UPDATE SKIP LOCKED
        )) RETURNING {number}
    ), {move(mark, to=lowest)}"""


#: Moves the marks of windows and batches, in one message with the statement after it; the parameter `passed` is PASSED.
#: Where somebody inserts at the moment, it does nothing. Its snapshot must be younger than its locks: so it is a
#: statement of its own, at the isolation level where each has its own snapshot. Its commit need not wait for the disk.
MOVE_MARKS = f"""
SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = off; {INDEX_PROBES_ONLY}
SELECT set_config('towpath.moves_windows',
                  pg_try_advisory_xact_lock{_LOCK.format(table="pipeline_window")}::text, true),
       set_config('towpath.moves_batches',
                  pg_try_advisory_xact_lock{_LOCK.format(table="pipeline_batch")}::text, true);
WITH {_move_alone("windows", table="pipeline_window", number="number", is_passed="acked_at IS NOT NULL")},
{_move_alone("batches", table="pipeline_batch", number="id", is_passed="false")},
{move("verified", to=f"SELECT 0 FROM windows_drawn WHERE last + 1 < {value_of('verified')}")}
SELECT;
"""
