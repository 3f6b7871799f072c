"""Live tail: the events of the windows that were acknowledged since the last request.

An answer that lacks some says so in its last row, with how many if that is known: no event is left out silently.
"""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

from django.http import HttpResponse
from django.shortcuts import render

from towpath.eventlog.columns import Kind
from towpath.eventlog.errors import EventStoreError, LimitReached
from towpath.eventlog.query import Query
from towpath.eventlog.query.operators import Operator
from towpath.eventlog.query.syntax import ColumnField, Comparison, Text
from towpath.eventlog.values import EARLIEST, LARGEST, TOO_LATE
from towpath.explorer import access, reading
from towpath.explorer.bars import moment
from towpath.explorer.rows import rows
from towpath.explorer.state import Between
from towpath.explorer.terms import both
from towpath.explorer.views.access import for_readers
from towpath.explorer.views.asked import asked
from towpath.ledger.finished import MOST_LATE, MOST_SEEN, MOST_WINDOWS, Place, finished_since, here
from towpath.pages.zones import as_utc

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from django.http import HttpRequest

    from towpath.eventlog.search import FoundEvent, SearchableStore
    from towpath.explorer.views.asked import Asked
    from towpath.ledger.finished import FinishedWindow

#: The header with the `after` of the next request.
AFTER = "Tail-After"
_SECONDS = 1.0
#: An event may bring its own time, which is a little in the future if clocks disagree.
_AHEAD = timedelta(days=1)
_TOO_LONG = "Finding new events takes too long. Still trying. Add a condition, such as type:login."
_AWAY = "The event store does not answer. Still trying."


@for_readers
def tail(request: HttpRequest) -> HttpResponse:
    """Return rows for the top of the table, newest first; some may already be there."""
    asks = asked(request)
    try:
        after = _place(request.GET.get("after", ""))
    except (ValueError, OverflowError):
        return _told("after is not the Tail-After of an answer.", HTTPStatus.BAD_REQUEST)
    if asks.is_wrong:
        return _told(asks.problems[0].text, HTTPStatus.BAD_REQUEST)
    access.searched(request.user, asks.state, now=asks.now, shown_as="tail")
    windows, place = finished_since(after)
    try:
        found, left_out = _events(reading.store(request.user), windows, asks) if windows else ((), 0)
    except EventStoreError as error:
        # The next request asks for the same again.
        return _told(_TOO_LONG if isinstance(error, LimitReached) else _AWAY, HTTPStatus.SERVICE_UNAVAILABLE)
    # Windows that were left out have events that nobody has counted.
    is_counted = left_out is not None and len(windows) < MOST_WINDOWS and len(place.late) < MOST_LATE
    context = {
        "rows": list(rows(found, asks.state, after=found[0].position if found else None)),
        "state": asks.state,
        "is_tail": True,
        "has_gap": left_out != 0 or not is_counted,
        "left_out": left_out if is_counted else None,
    }
    response = render(request, "towpath/explorer/_rows.html", context)
    response.headers[AFTER] = _text(place)
    return response


def now_as_text() -> str:
    """Return the `after` that follows from now on."""
    return _text(here())


def _told(text: str, status: HTTPStatus) -> HttpResponse:
    return HttpResponse(text, status=status, content_type="text/plain; charset=utf-8")


def _text(place: Place) -> str:
    """Return the place as the client keeps it: `2026-11-25T21:42:07.318204Z,1234`, the late windows, and after a `;`
    those that were seen."""
    late = ",".join([as_utc(place.acked_at), *map(str, (place.number, *place.late))])
    return f"{late};{','.join(map(str, place.seen))}" if place.seen else late


def _place(text: str) -> Place:
    """Return the place from the text of `_text`. Raises ValueError or OverflowError for any other text."""
    first, _, then = text.partition(";")
    acked_at, *numbers = first.split(",")
    (number, *late), at = map(int, numbers), moment(acked_at)
    seen = [int(each) for each in then.split(",") if each]
    if not all(0 <= each <= LARGEST for each in (number, *late, *seen)):
        raise ValueError("these are not numbers of windows")
    if len(late) > MOST_LATE or len(seen) > MOST_SEEN:
        raise ValueError("no answer has so many windows")
    if not EARLIEST <= at <= TOO_LATE:
        raise ValueError("no window was acknowledged then")
    return Place(number, at, tuple(late), tuple(seen))


def _events(
    store: SearchableStore, windows: Sequence[FinishedWindow], asks: Asked
) -> tuple[Sequence[FoundEvent], int | None]:
    """Return the newest events of the windows, and how many others they have: None if counting takes too long."""
    of_windows = Comparison(
        ColumnField("window_id", Kind.UUID), Operator.IS, tuple(Text(str(window.id)) for window in windows)
    )
    query, since, until = both(asks.state.query, Query(of_windows)), asks.bounds.since, _until(asks)
    found = store.search(
        query,
        since=since,
        until=until,
        rows=reading.TAIL_ROWS + 1,
        most_characters=reading.characters(asks.state),
        seconds=_SECONDS,
    )
    shown = found[: reading.TAIL_ROWS]
    if len(found) == len(shown):
        return shown, 0
    try:
        bars = store.histogram(query, since=since, until=until, step=until - since, seconds=_SECONDS)
    except LimitReached:
        return shown, None
    return shown, sum(bar.events for bar in bars) - len(shown)


def _until(asks: Asked) -> datetime:
    """Return the end of the page's period, which has a little of the future if it goes up to now."""
    soon = asks.now + _AHEAD
    return min(asks.state.period.until, soon) if isinstance(asks.state.period, Between) else soon
