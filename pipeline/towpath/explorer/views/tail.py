"""Live tail: the events of the windows that were acknowledged since the last request."""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

from django.http import HttpResponse
from django.shortcuts import render

from towpath.eventlog.columns import Kind
from towpath.eventlog.errors import EventStoreError
from towpath.eventlog.query import Query
from towpath.eventlog.query.operators import Operator
from towpath.eventlog.query.syntax import ColumnField, Comparison, Text
from towpath.explorer import access, reading
from towpath.explorer.bars import moment
from towpath.explorer.rows import rows
from towpath.explorer.terms import both
from towpath.explorer.views.access import for_readers
from towpath.explorer.views.asked import asked
from towpath.ledger.acked import acked_since
from towpath.ledger.seals import database_now
from towpath.pages.zones import as_utc

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from django.http import HttpRequest

    from towpath.eventlog.search import FoundEvent
    from towpath.explorer.views.asked import Asked

#: The header with the `after` of the next request.
AFTER = "Tail-After"
_SECONDS = 1.0
#: An event may bring its own time, which is a little in the future if clocks disagree.
_AHEAD = timedelta(days=1)


@for_readers
def tail(request: HttpRequest) -> HttpResponse:
    """Return rows for the top of the table, newest first; some may already be there. Without `after`, return no rows,
    only the time to ask from."""
    asks = asked(request)
    now = database_now()
    try:
        after = moment(request.GET.get("after", "")) if "after" in request.GET else now
    except (ValueError, OverflowError):
        return HttpResponse("after is not a time.", status=HTTPStatus.BAD_REQUEST, content_type="text/plain")
    if asks.is_wrong:
        return HttpResponse(asks.problems[0].text, status=HTTPStatus.BAD_REQUEST, content_type="text/plain")
    access.searched(request.user, asks.state, now=asks.now, shown_as="tail")
    windows = acked_since(after) if "after" in request.GET else []
    try:
        found = _events(request, windows, asks) if windows else ()
    except EventStoreError:
        # The next request asks for the same again.
        return HttpResponse(status=HTTPStatus.SERVICE_UNAVAILABLE)
    today = found[0].position if found else None
    context = {"rows": list(rows(found, asks.state, after=today)), "state": asks.state, "is_tail": True}
    response = render(request, "towpath/explorer/_rows.html", context)
    response.headers[AFTER] = as_utc(now)
    return response


def _events(request: HttpRequest, windows: Sequence[UUID], asks: Asked) -> Sequence[FoundEvent]:
    of_windows = Comparison(
        ColumnField("window_id", Kind.UUID), Operator.IS, tuple(Text(str(window)) for window in windows)
    )
    return reading.store(request.user).search(
        both(asks.state.query, Query(of_windows)),
        since=asks.bounds.since,
        until=asks.now + _AHEAD,
        rows=reading.PAGE_ROWS,
        most_characters=reading.SUMMARY_CHARACTERS,
        seconds=_SECONDS,
    )
