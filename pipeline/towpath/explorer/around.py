"""Around an event: what else the same request, person or thing did, and what happened at the same time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from towpath.eventlog.columns import Kind
from towpath.eventlog.errors import LimitReached
from towpath.eventlog.query import Query
from towpath.eventlog.query.operators import Operator
from towpath.eventlog.query.syntax import ColumnField, Comparison, Text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from towpath.eventlog.search import SearchableStore
    from towpath.eventlog.stored import StoredEvent

#: A request is over within an hour. For a person or a thing, an investigation begins with the hours around the event.
_AN_HOUR, _A_MINUTE = timedelta(hours=1), timedelta(minutes=1)
#: What events with the same value in a column are called, by column.
_SHARED = {"request_id": "Same request", "actor": "Same actor", "target": "Same target"}
#: The time limit of one count, in seconds.
_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Events around an event, and how to find them."""

    name: str
    #: What they share with it; empty if that is only the time.
    value: str
    query: Query
    since: datetime
    until: datetime


def around(event: StoredEvent) -> Iterator[Neighbours]:
    """Yield what there is around an event."""
    at = event.event_date_time
    for column, name in _SHARED.items():
        if value := str(event.added.get(column, "")):
            query = Query(Comparison(ColumnField(column, Kind.TEXT), Operator.IS, (Text(value),)))
            yield Neighbours(name, value, query, at - _AN_HOUR, at + _AN_HOUR)
    minute = at.replace(second=0, microsecond=0)
    yield Neighbours("Same minute", "", Query(), minute, minute + _A_MINUTE)


def count(one: Neighbours, store: SearchableStore) -> int | None:
    """Return how many events there are, with the event itself. None if counting takes too long.

    Raises StoreUnavailable.
    """
    try:
        bars = store.histogram(one.query, since=one.since, until=one.until, step=_AN_HOUR, seconds=_SECONDS)
    except LimitReached:
        return None
    return sum(bar.events for bar in bars)
