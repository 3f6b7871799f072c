"""The statements of a search on ClickHouse.

A search reads the table in the order of its sorting key, newest first, and stops when it has enough rows. Columns that
it neither compares nor sorts by are read only for the rows of the answer (lazy materialization). `LIMIT ... WITH TIES`
would turn that off, so the store asks for one more row: it shows whether other rows share the last position.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from towpath.eventlog.search import Bar
from towpath.eventlog.stored import streamed_columns
from towpath.eventlog.stores.clickhouse.moments import microseconds, moment_of, of_microseconds
from towpath.eventlog.stores.clickhouse.query import where
from towpath.eventlog.stores.clickhouse.schema import TABLE
from towpath.eventlog.values import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from towpath.eventlog.columns import Column
    from towpath.eventlog.query import Query
    from towpath.eventlog.search import Position

Statement = tuple[str, dict[str, Any]]

_NEWEST_FIRST = "event_date_time DESC, outbox DESC, outbox_id DESC"
#: No column of a project can have this name.
_BAR = "towpath_bar"


def page(
    query: Query,
    *,
    since: datetime,
    until: datetime,
    before: Position | None,
    rows: int,
    most_characters: int | None,
    own: tuple[Column, ...],
) -> Statement:
    """Return the statement for the newest `rows` rows, whose answer `FoundEvents.of_columns` reads."""
    condition, parameters = _within(query, since, until)
    if before is not None:
        # The first condition is there for the sorting key, which the server does not use for the second.
        condition += f"""
            AND event_date_time <= {moment_of("before")}
            AND (event_date_time, outbox, outbox_id) < ({moment_of("before")}, %(before_outbox)s, %(before_id)s)
            """
        parameters |= {
            "before": microseconds(before.at),
            "before_outbox": before.outbox,
            "before_id": before.outbox_id,
        }
    names = streamed_columns(own)
    context = f"substringUTF8(event_context, 1, {most_characters})"
    shown = [context if name == "event_context" and most_characters is not None else name for name in names]
    # The text is cut and measured after the limit. Before the limit, the server would read it for every row.
    sql = f"""
        SELECT {", ".join(shown)}, lengthUTF8(event_context) FROM (
            SELECT {", ".join(names)} FROM {TABLE} WHERE {condition}
            ORDER BY {_NEWEST_FIRST} LIMIT {rows:d}
        ) ORDER BY {_NEWEST_FIRST}
        """
    return sql, parameters


def at(position: Position, *, own: tuple[Column, ...]) -> Statement:
    """Return the statement for the rows at a position, whose answer `FoundEvents.of_columns` reads."""
    sql = f"""
        SELECT {", ".join(streamed_columns(own))}, lengthUTF8(event_context) FROM {TABLE}
        WHERE event_date_time = {moment_of("at")} AND outbox = %(outbox)s AND outbox_id = %(outbox_id)s
        ORDER BY window_id, event_type
        """
    return sql, {"at": microseconds(position.at), "outbox": position.outbox, "outbox_id": position.outbox_id}


def bars(query: Query, *, since: datetime, until: datetime, step: timedelta) -> Statement:
    """Return the statement for the counts of the bars, whose answer `found_bars` reads."""
    condition, parameters = _within(query, since, until)
    number = "toUnixTimestamp64Micro(event_date_time)"
    # Both signed: of a time before 1970 and an unsigned step, older servers make a large number.
    sql = f"""
        SELECT {number} - positiveModulo({number}, toInt64(%(step)s)) AS {_BAR}, event_type, count() FROM {TABLE}
        WHERE {condition} GROUP BY {_BAR}, event_type ORDER BY {_BAR}, event_type
        """
    return sql, parameters | {"step": step // timedelta(microseconds=1)}


def found_bars(columns: Sequence[Sequence[Any]]) -> list[Bar]:
    """Return the bars in the answer to `bars`, ordered by start and event type."""
    found = zip(*columns, strict=True)
    return [Bar(of_microseconds(int(start)), event_type or "", int(events)) for start, event_type, events in found]


def _within(query: Query, since: datetime, until: datetime) -> Statement:
    condition, parameters = where(query)
    within = f"event_date_time >= {moment_of('since')} AND event_date_time < {moment_of('until')}"
    period = {name: microseconds(nearest(at)) for name, at in (("since", since), ("until", until))}
    return f"{within} AND {condition}", parameters | period
