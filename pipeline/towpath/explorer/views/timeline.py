"""A timeline: what one person or one request did, oldest first, minute by minute."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Any

from django.shortcuts import render
from django.urls import reverse

from towpath.eventlog.errors import EventStoreError, LimitReached
from towpath.eventlog.paging import newest
from towpath.eventlog.query.operators import Operator
from towpath.eventlog.query.syntax import ColumnField, Comparison, Text
from towpath.eventlog.values import EARLIEST, TOO_LATE
from towpath.explorer import access, columns, reading
from towpath.explorer.rows import rows
from towpath.explorer.state import Between
from towpath.explorer.views.access import for_readers
from towpath.explorer.views.asked import asked
from towpath.pages.frame import frame
from towpath.pages.zones import age

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from django.http import HttpRequest, HttpResponse

    from towpath.eventlog.search import FoundEvent
    from towpath.explorer.columns import Shown
    from towpath.explorer.rows import Row
    from towpath.explorer.state import State

#: Nobody reads more. If there are more, only the newest are shown, and the page says so.
MOST_EVENTS = 500
_SECONDS = 2.0
_MINUTE = timedelta(minutes=1)
#: The title of a timeline, by the column that its query compares.
_TITLES = {"actor": "Timeline of {}", "request_id": "Timeline of the request {}", "target": "Timeline of {}"}


@dataclass(frozen=True, slots=True)
class Minute:
    """The events of one minute, and the length of the gap before it. A gap of less than a minute is empty."""

    label: str
    gap: str
    rows: Sequence[Row]


@for_readers
def timeline(request: HttpRequest) -> HttpResponse:
    """Return a page with the events of the URL's query and period, oldest first."""
    asks = asked(request)
    state = replace(asks.state, chosen=_told(asks.state))
    context: dict[str, Any] = {
        "title": _title(state),
        "text": state.text,
        "table_url": reverse("explorer:page") + state.url(chosen=None),
        "zone": state.zone.name,
        "problems": [problem.text for problem in asks.problems if problem.field != "columns"],
    }
    if not asks.is_wrong:
        context |= _found(request, state, asks.bounds, asks.now)
    return render(request, "towpath/explorer/timeline.html", frame(request, here="Events") | context)


def _found(request: HttpRequest, state: State, period: Between, now: datetime) -> dict[str, Any]:
    access.searched(request.user, state, now=now, shown_as="timeline")
    length = period.until - period.since
    context = {
        "since": state.zone.minute(period.since),
        "until": state.zone.minute(period.until),
        "earlier_url": _moved(state, period, -length),
        "later_url": _moved(state, period, length),
    }
    try:
        found = newest(
            reading.store(request.user),
            state.query,
            since=period.since,
            until=period.until,
            rows=MOST_EVENTS,
            most_characters=reading.SUMMARY_CHARACTERS,
            seconds=_SECONDS,
        )
    except EventStoreError as error:
        return context | {"is_limit": isinstance(error, LimitReached), "is_away": True}
    return context | {
        "minutes": list(_minutes(found.events[::-1], state)),
        "events": len(found.events),
        "back_to": "" if found.is_complete else state.zone.minute(found.searched_back_to),
    }


def _minutes(events: Sequence[FoundEvent], state: State) -> Iterator[Minute]:
    last: datetime | None = None
    shown = zip(events, rows(events, state, after=None), strict=True)
    for minute, each in groupby(shown, key=lambda one: one[0].event.event_date_time.replace(second=0, microsecond=0)):
        here = list(each)
        first = here[0][0].event.event_date_time
        gap = age(first - last) if last is not None and first - last >= _MINUTE else ""
        yield Minute(state.zone.minute(minute), gap, [row for _, row in here])
        last = here[-1][0].event.event_date_time


def _moved(state: State, period: Between, by: timedelta) -> str:
    # A period in which no event can be would be refused.
    is_possible = period.since + by >= EARLIEST and period.until + by <= TOO_LATE
    moved = Between(period.since + by, period.until + by) if is_possible else period
    return state.url(period=moved, chosen=None)


def _told(state: State) -> tuple[Shown, ...]:
    """Return the columns of a timeline: the default ones, without the actor or the target, whichever is always the
    same."""
    left_out = "actor" if _one(state)[0] in {"actor", "request_id"} else "target"
    return tuple(shown for shown in columns.default(state.own) if shown.name != left_out)


def _title(state: State) -> str:
    name, text = _one(state)
    return _TITLES[name].format(text) if name else "Timeline"


def _one(state: State) -> tuple[str, str]:
    """Return the column and the value of a query for one person, request or thing. Both are empty for any other
    query."""
    match state.query.term:
        case Comparison(ColumnField(name), Operator.IS, (Text(text),)) if name in _TITLES:
            return name, text
    return "", ""
