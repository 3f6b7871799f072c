"""The statements of a search on PostgreSQL.

A search walks the index of positions, newest first, and stops when it has enough rows. Contexts are read from their
TOAST table, and cut, only after the limit.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from towpath.eventlog.search import Bar
from towpath.eventlog.stored import streamed_columns
from towpath.eventlog.stores.postgresql.query import where
from towpath.eventlog.stores.postgresql.schema import TABLE
from towpath.eventlog.values import EPOCH, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towpath.eventlog.columns import Column
    from towpath.eventlog.query import Query
    from towpath.eventlog.search import Position

Statement = tuple[str, dict[str, Any]]

_NEWEST_FIRST = "event_date_time DESC, outbox DESC, outbox_id DESC"


def page(
    query: Query,
    *,
    since: datetime,
    until: datetime,
    before: Position | None,
    rows: int,
    most_characters: int | None,
    own: tuple[Column, ...],
    server: int,
) -> Statement:
    """Return the statement for the newest `rows` rows, and others at the position of the last one.
    `FoundEvents.of_rows` reads its rows."""
    condition, parameters = _within(query, since, until, server=server)
    if before is not None:
        # The first condition excludes later partitions.
        condition += """
            AND event_date_time <= %(before)s
            AND (event_date_time, outbox, outbox_id) < (%(before)s, %(before_outbox)s, %(before_id)s::bigint)
            """
        parameters |= {"before": before.at, "before_outbox": before.outbox, "before_id": before.outbox_id}
    names = streamed_columns(own)
    context = f"left(event_context, {most_characters})"
    shown = [context if name == "event_context" and most_characters is not None else name for name in names]
    sql = f"""
        SELECT {", ".join(shown)}, length(event_context) FROM (
            SELECT {", ".join(names)} FROM {TABLE} WHERE {condition}
            ORDER BY {_NEWEST_FIRST} FETCH FIRST {rows:d} ROWS WITH TIES
        ) AS found ORDER BY {_NEWEST_FIRST}
        """
    return sql, parameters


def at(position: Position, *, own: tuple[Column, ...]) -> Statement:
    """Return the statement for the rows at a position, which `FoundEvents.of_rows` reads."""
    sql = f"""
        SELECT {", ".join(streamed_columns(own))}, length(event_context) FROM {TABLE}
        WHERE event_date_time = %(at)s AND outbox = %(outbox)s AND outbox_id = %(outbox_id)s::bigint
        ORDER BY window_id, event_type
        """
    return sql, {"at": position.at, "outbox": position.outbox, "outbox_id": position.outbox_id}


def bars(query: Query, *, since: datetime, until: datetime, step: timedelta, server: int) -> Statement:
    """Return the statement for the counts of the bars, numbered from 1970 on, which `found_bars` reads."""
    condition, parameters = _within(query, since, until, server=server)
    # Before PostgreSQL 14, extract() returns a float, which still holds every microsecond.
    number = "round(extract(epoch FROM event_date_time)::numeric * 1000000)"
    sql = f"""
        SELECT floor({number} / %(step)s::numeric)::bigint, event_type, count(*) FROM {TABLE}
        WHERE {condition} GROUP BY 1, 2 ORDER BY 1, 2
        """
    return sql, parameters | {"step": step // timedelta(microseconds=1)}


def found_bars(rows: Sequence[tuple[Any, ...]], *, step: timedelta) -> list[Bar]:
    """Return the bars in the rows of `bars`, ordered by start and event type."""
    return [Bar(EPOCH + number * step, event_type or "", events) for number, event_type, events in rows]


def _within(query: Query, since: datetime, until: datetime, *, server: int) -> Statement:
    condition, parameters = where(query, server=server)
    period = {name: nearest(at) for name, at in (("since", since), ("until", until))}
    return f"event_date_time >= %(since)s AND event_date_time < %(until)s AND {condition}", parameters | period
