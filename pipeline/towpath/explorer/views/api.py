"""The search, histogram and export of the page for programs: in JSON, with a person's session and permissions.

docs/explorer.md explains it, and `towpath.explorer.openapi` describes it for a project's OpenAPI document.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.http import HttpResponse, JsonResponse

from towpath.eventlog.errors import EventStoreError, LimitReached
from towpath.eventlog.paging import histogram, newest
from towpath.explorer import access, reading
from towpath.explorer.bars import moment, step
from towpath.explorer.events import EventsPageRead
from towpath.explorer.export import whole
from towpath.explorer.formats import NdJson, compact_json
from towpath.explorer.links import place, position
from towpath.explorer.models import EXPORT
from towpath.explorer.views.access import for_programs
from towpath.explorer.views.asked import asked
from towpath.explorer.views.export import exported
from towpath.explorer.views.problems import problem, problem_of
from towpath.pages.zones import as_utc

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from towpath.eventlog.paging import Page
    from towpath.eventlog.search import Position

ROWS, MOST_ROWS = 100, 500
#: The most characters of a context in the first read. A longer one is read separately.
_CHARACTERS = 32_000
_TOO_LONG = "This search takes too long. Choose a shorter range, or add a condition such as type:login."
_AWAY = "The event store does not answer. Nothing is lost: try again in a moment."


@for_programs(EXPORT)
def search(request: HttpRequest) -> HttpResponse:
    """Return a page of events, newest first. `next` is the `before` of the following page.

    Contexts are whole, and one page follows the other to the end of the log. So this takes the permission to export,
    and each page is recorded with its number of events.
    """
    asks = asked(request)
    if asks.is_wrong:
        return problem_of(asks.problems)
    try:
        rows, before = _asked_page(request)
    except ValueError as error:
        return problem(422, str(error))
    store, bounds = reading.store(request.user), asks.bounds
    try:
        page = newest(
            store,
            asks.state.query,
            since=bounds.since,
            until=bounds.until,
            before=before,
            rows=rows,
            most_characters=_CHARACTERS,
            seconds=reading.ROWS_SECONDS,
        )
        events = whole(store, page.events)
    except LimitReached:
        return problem(503, _TOO_LONG)
    except EventStoreError:
        return problem(503, _AWAY)
    read = EventsPageRead(
        query=str(asks.state.query),
        since=as_utc(bounds.since),
        until=as_utc(bounds.until),
        before=place(before) if before else "",
        rows=len(events),
    )
    access.record(request.user, read)
    return HttpResponse(_as_json(page, NdJson(asks.state.own).objects(events)), "application/json")


def _asked_page(request: HttpRequest) -> tuple[int, Position | None]:
    """Return how many rows are asked for, and before which event. Raises ValueError, whose text says what to write."""
    try:
        rows = int(request.GET.get("rows", ROWS))
        before = position(request.GET["before"]) if "before" in request.GET else None
    except (ValueError, OverflowError):
        raise ValueError(f"rows must be a number up to {MOST_ROWS}, and before the `next` of another page.") from None
    if not 1 <= rows <= MOST_ROWS:
        raise ValueError(f"rows is {rows}: write a number from 1 to {MOST_ROWS}.")
    return rows, before


def _as_json(page: Page, events: Iterable[str]) -> bytes:
    """Contexts are the stored text, so that no number changes."""
    said = {
        "searched_back_to": as_utc(page.searched_back_to),
        "next": place(page.next) if page.next else None,
        "is_complete": page.is_complete,
    }
    return f'{{"events":[{",".join(events)}],{compact_json(said)[1:]}'.encode("utf-8", "replace")


@for_programs()
def bars(request: HttpRequest) -> HttpResponse:
    """Return how many events of each type there are, newest first, as far as there was time to count."""
    asks = asked(request)
    if asks.is_wrong:
        return problem_of(asks.problems)
    bounds = asks.bounds
    try:
        until = min(bounds.until, moment(request.GET["back_to"])) if "back_to" in request.GET else bounds.until
    except (ValueError, OverflowError):
        return problem(422, "back_to is not a time, such as 2026-11-25T21:00:00Z.")
    access.searched(request.user, asks.state, now=asks.now, shown_as="api")
    length = step(bounds.until - bounds.since)
    try:
        found = histogram(
            reading.store(request.user),
            asks.state.query,
            since=bounds.since,
            until=max(until, bounds.since),
            step=length,
            seconds=reading.BARS_SECONDS,
        )
    except LimitReached:
        return problem(503, _TOO_LONG)
    except EventStoreError:
        return problem(503, _AWAY)
    return JsonResponse(
        {
            "seconds": length.total_seconds(),
            "bars": [
                {"start": as_utc(bar.start), "event_type": bar.event_type, "events": bar.events} for bar in found.bars
            ],
            "back_to": as_utc(found.searched_back_to),
            "is_complete": found.is_complete,
        }
    )


@for_programs(EXPORT)
def export(request: HttpRequest) -> HttpResponseBase:
    """Return the page's export: a file, streamed."""
    return exported(request)
