"""The parts that a page asks for once it is shown: bars and facets, for the page's period and query."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.http import JsonResponse
from django.shortcuts import render

from towpath.eventlog.errors import EventStoreError, LimitReached
from towpath.eventlog.paging import histogram, sample
from towpath.explorer import access, reading
from towpath.explorer.bars import as_json, moment, step
from towpath.explorer.facets import facets
from towpath.explorer.views.access import for_readers
from towpath.explorer.views.asked import asked

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

_AWAY = "The event store does not answer. Load the page again in a moment."
_TOO_MUCH = "Counting takes too long. Choose a shorter range, or add a condition such as type:login."


@for_readers
def bars(request: HttpRequest) -> HttpResponse:
    """Return how many events of each type there are, newest first, as far as there was time to count. `back_to`
    continues."""
    asks = asked(request)
    if asks.is_wrong:
        return JsonResponse({"problem": asks.problems[0].text}, status=400)
    access.searched(request.user, asks.state, now=asks.now, shown_as="page")
    bounds = asks.bounds
    until = bounds.until
    if back_to := request.GET.get("back_to"):
        try:
            until = min(until, moment(back_to))
        except (ValueError, OverflowError):
            return JsonResponse({"problem": "back_to is not a time, such as 2026-11-25T21:00:00Z."}, status=400)
    try:
        found = histogram(
            reading.store(request.user),
            asks.state.query,
            since=bounds.since,
            until=max(until, bounds.since),
            step=step(bounds.until - bounds.since),
            seconds=reading.BARS_SECONDS,
        )
    except LimitReached:
        return JsonResponse({"problem": _TOO_MUCH}, status=503)
    except EventStoreError:
        return JsonResponse({"problem": _AWAY}, status=503)
    return JsonResponse(as_json(found))


@for_readers
def facet_list(request: HttpRequest) -> HttpResponse:
    """Return the most frequent values in the newest events, each with its links."""
    asks = asked(request)
    if asks.is_wrong:
        return render(request, "towpath/explorer/_facets.html", {})
    access.searched(request.user, asks.state, now=asks.now, shown_as="page")
    bounds = asks.bounds
    try:
        found = sample(
            reading.store(request.user),
            asks.state.query,
            since=bounds.since,
            until=bounds.until,
            seconds=reading.SAMPLE_SECONDS,
        )
    except EventStoreError as error:
        return render(request, "towpath/explorer/_facets.html", {"is_limit": isinstance(error, LimitReached)})
    return render(
        request,
        "towpath/explorer/_facets.html",
        {"facets": facets(found.events, asks.state), "sampled": len(found.events), "is_all": found.is_complete},
    )
