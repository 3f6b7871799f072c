"""Rows that change all the time have a version each, and every read begins with the newest.

While a transaction holds back vacuum, each update leaves a dead entry in the indexes for good. Under a unique index on
the name alone, every update and every look would walk them all, to find the one that is alive. So the version is part
of the key: an update makes a key that was never there, and the entry with the highest version is the living row's.

That takes a plan which reads the index backwards (`marks.INDEX_PROBES_ONLY`, as in `moment.one_moment`): the
planner knows a table of two rows, and would rather read all its pages, however many the dead have filled.

An update names the version that it has read, and changes nothing if somebody was quicker. Two that create a row collide
on version 0. One that sleeps through the other's first update could add a second row: no reader ever meets it.
"""

from __future__ import annotations


def newest(table: str, *, key: str, value: str) -> str:
    """SQL, a table expression: the row of `table` whose `key` is what the SQL `value` says; none if there is none."""
    return f"(SELECT * FROM {table} AS one WHERE one.{key} = {value} ORDER BY one.version DESC LIMIT 1)"


def newest_of_each(table: str, *, key: str) -> str:
    """SQL, a table expression: the rows of `table`, one for each `key`.

    From the last key down, each is found by its newest version, so that the dead ones in between are passed over.
    """
    return f"""(
        WITH RECURSIVE newest AS (
            (SELECT * FROM {table} ORDER BY {key} DESC, version DESC LIMIT 1)
            UNION ALL
            SELECT next.* FROM newest CROSS JOIN LATERAL (
                SELECT * FROM {table} AS one WHERE one.{key} < newest.{key}
                ORDER BY one.{key} DESC, one.version DESC LIMIT 1
            ) AS next
        )
        SELECT * FROM newest
    )"""
