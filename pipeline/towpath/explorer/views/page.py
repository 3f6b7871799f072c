"""The page itself, with its rows and with placeholders for the parts that it asks for once it is shown."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.shortcuts import render
from django.utils import timezone

from towpath.eventlog.errors import EventStoreError, LimitReached
from towpath.eventlog.paging import newest
from towpath.eventlog.query import Query
from towpath.eventlog.values import EARLIEST, TOO_LATE
from towpath.explorer import access, columns, parquet, reading, saved
from towpath.explorer.bars import step
from towpath.explorer.emptiness import Emptiness, nothing_found, store_away
from towpath.explorer.export import MOST_ROWS
from towpath.explorer.links import place, position
from towpath.explorer.models import EXPORT, SHARE
from towpath.explorer.rows import rows
from towpath.explorer.state import Between, Last
from towpath.explorer.views.access import for_readers
from towpath.explorer.views.asked import Asked, asked
from towpath.explorer.views.tail import now_as_text
from towpath.pages.frame import frame
from towpath.pages.zones import UTC_ZONE, as_utc

if TYPE_CHECKING:
    from datetime import datetime

    from django.http import HttpRequest, HttpResponse

    from towpath.eventlog.search import Position
    from towpath.explorer.state import State

_RANGES = ("15m", "1h", "4h", "24h", "7d", "30d")
#: If a search has found fewer rows than this when its time is over, the page continues it on its own.
_FEW_ROWS = 20


@for_readers
def page(request: HttpRequest) -> HttpResponse:
    """Return the search page with the newest rows that its URL asks for."""
    asks = asked(request)
    asks = replace(asks, state=saved.with_columns_of(request.user, asks.state))
    # Before the search: what it does not find yet comes later.
    followed_from = now_as_text()
    found = {} if asks.is_wrong else _found(request, asks, before=None)
    return render(
        request,
        "towpath/explorer/page.html",
        frame(request, here="Events")
        | _surroundings(request, asks)
        | found
        | {"followed_from": followed_from, "live_url": _live_url(asks)},
    )


@for_readers
def more_rows(request: HttpRequest) -> HttpResponse:
    """Return the rows before a position, for the end of the table."""
    asks = asked(request)
    try:
        before = position(request.GET.get("before", ""))
    except (ValueError, OverflowError):
        return render(request, "towpath/explorer/_problem.html", {"text": "This link is damaged."}, status=400)
    if asks.is_wrong:
        return render(request, "towpath/explorer/_problem.html", {"text": asks.problems[0].text}, status=400)
    return render(request, "towpath/explorer/_rows.html", _found(request, asks, before=before) | {"state": asks.state})


def _found(request: HttpRequest, asks: Asked, *, before: Position | None) -> dict[str, Any]:
    """Return the rows and how far they go, or why there are none."""
    state, bounds = asks.state, asks.bounds
    began = time.monotonic()
    access.searched(request.user, state, now=asks.now, shown_as="page")
    try:
        store = reading.store(request.user)
        found = newest(
            store,
            state.query,
            since=bounds.since,
            until=bounds.until,
            before=before,
            rows=reading.PAGE_ROWS,
            most_characters=reading.characters(state),
            seconds=reading.ROWS_SECONDS,
        )
        empty = None
        if found.is_complete and not found.events and before is None:
            empty = nothing_found(store, state, now=asks.now)
    except EventStoreError as error:
        return {"empty": _unanswered(request, error), "is_part": before}
    following = f"{asks.part_url}&before={place(found.next)}" if found.next else ""
    return {
        "rows": list(rows(found.events, state, after=before)),
        "empty": empty,
        "next_url": following,
        # A full page continues when the person scrolls; one that found little continues on its own.
        "is_full": len(found.events) >= reading.PAGE_ROWS,
        "goes_on": len(found.events) < _FEW_ROWS,
        "back_to": state.zone.minute(found.searched_back_to),
        "milliseconds": round(1000 * (time.monotonic() - began)),
    }


def _unanswered(request: HttpRequest, error: EventStoreError) -> Emptiness:
    """Return why the store has no answer."""
    if isinstance(error, LimitReached):
        return Emptiness("limit")
    return store_away(has_counts=reading.sees_everything(request.user))


def _surroundings(request: HttpRequest, asks: Asked) -> dict[str, Any]:
    """Return everything on the page except what was found."""
    state, bounds = asks.state, asks.bounds
    shown = {column.name for column in state.columns}
    return {
        **_views(request),
        **_kept(asks),
        "may_share": request.user.has_perm(SHARE),
        "state": state,
        "is_wrong": asks.is_wrong,
        "problems": {problem.field: problem for problem in asks.problems},
        "part_url": asks.part_url,
        "since": bounds.since.timestamp(),
        "until": bounds.until.timestamp(),
        "step": step(bounds.until - bounds.since).total_seconds(),
        "ranges": [_range(state, text) for text in _RANGES],
        "range_label": _label(state),
        "since_typed": state.zone.typed(_full_minute(bounds.since, state)),
        "until_typed": state.zone.typed(_full_minute(bounds.until, state)),
        "given": {name: request.GET.get(name, "") for name in ("since", "until")},
        "clear_url": state.url(text="", query=Query()),
        "zoom_out_url": state.url(period=_wider(bounds)),
        "zones": list(dict.fromkeys((UTC_ZONE.name, timezone.get_default_timezone_name(), state.zone.name))),
        "may_export": request.user.has_perm(EXPORT),
        "has_parquet": parquet.is_possible(),
        "most_rows": f"{MOST_ROWS:,}",
        "possible_columns": [(column, column.name in shown) for column in columns.possible(state.own)],
        "paths": [column for column in state.columns if column.is_path],
        "heads": [(column, _without(state, column)) for column in state.columns],
        "fields": _fields(state),
    }


def _views(request: HttpRequest) -> dict[str, Any]:
    """Return the saved views that this person can open."""
    views = saved.views_of(request.user)
    return {
        "own_views": [view for view in views if view.owner_id == request.user.pk],
        "shared_views": [view for view in views if view.owner_id != request.user.pk],
        "audits": saved.AUDITS,
    }


def _kept(asks: Asked) -> dict[str, Any]:
    """Return what each form of the page keeps of the URL: everything that it does not set itself."""
    parameters = asks.state.parameters()
    return {
        "here": urlencode(parameters),
        "kept": [(name, text) for name, text in parameters.items() if name != "q"],
        "kept_by_view": list(parameters.items()),
        "kept_by_range": [(name, text) for name, text in parameters.items() if name in {"q", "tz", "columns"}],
        "kept_by_zone": [(name, text) for name, text in parameters.items() if name != "tz"],
        "kept_by_columns": [(name, text) for name, text in parameters.items() if name != "columns"],
        # With the page's own `now`, so that the file has the same period.
        "kept_by_export": [*parameters.items(), ("now", as_utc(asks.now))],
    }


def _live_url(asks: Asked) -> str:
    """Return where Live leads from a period that is over: the time up to now. Empty if it can stay where it is."""
    is_over = isinstance(asks.state.period, Between) and asks.state.period.until <= asks.now
    return f"{asks.state.url(period=Last())}#live" if is_over else ""


def _range(state: State, text: str) -> tuple[str, str, bool]:
    period = Last(text)
    return period.in_words, state.url(period=period), state.period == period


def _label(state: State) -> str:
    """Return the period, in the shortest clear form."""
    if isinstance(state.period, Last):
        return state.period.in_words
    since, until = state.zone.minute(state.period.since), state.zone.minute(state.period.until)
    if state.zone.day(state.period.since) == state.zone.day(state.period.until):
        until = until.rpartition(", ")[2]
    return f"{since} \N{EN DASH} {until}"


def _full_minute(moment: datetime, state: State) -> datetime:
    """Return the moment without seconds if the period ends now: nobody types the microseconds of now."""
    return moment.replace(second=0, microsecond=0) if isinstance(state.period, Last) else moment


def _wider(bounds: Between) -> Between:
    half = (bounds.until - bounds.since) / 2
    # No event is before or after that, and a wider period would be refused.
    return Between(max(bounds.since - half, EARLIEST), min(bounds.until + half, TOO_LATE))


def _without(state: State, column: columns.Shown) -> str:
    left = tuple(each for each in state.columns if each != column)
    return state.url(chosen=left) if left else ""


def _fields(state: State) -> list[dict[str, str]]:
    """Return what the search bar completes: names of columns, and what they hold."""
    named = [column for column in columns.possible(state.own) if column.field is not None]
    found = [{"name": column.name, "hint": str(getattr(column.field, "kind", ""))} for column in named]
    return [*found, {"name": "time", "hint": "a day, a minute, or since: time>2026-11-26"}]
