"""One event: beside the table, on its own page, its context as a file, and what is around it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from towpath.eventlog.columns import Kind, row_columns
from towpath.eventlog.errors import EventStoreError
from towpath.eventlog.query.syntax import ColumnField
from towpath.explorer import access, around, context_text, provenance, reading
from towpath.explorer.columns import MOST_COLUMNS, Shown, short_name
from towpath.explorer.links import place as place_of
from towpath.explorer.links import position
from towpath.explorer.rows import look
from towpath.explorer.state import Between, State
from towpath.explorer.terms import excluded, is_on, narrowed, value_of, written
from towpath.explorer.views.access import for_readers
from towpath.explorer.views.asked import asked
from towpath.ledger.provenance import read as read_provenance
from towpath.pages.frame import frame
from towpath.pages.zones import age

if TYPE_CHECKING:
    from django.http import HttpRequest

    from towpath.eventlog.query.syntax import Field, Value
    from towpath.eventlog.search import FoundEvent, Position
    from towpath.eventlog.stored import StoredEvent

#: The most characters of a context that can be copied from the page. A larger one can be downloaded.
_COPIED_CHARACTERS = 200_000
_SECONDS = 3.0
_A_MINUTE = timedelta(minutes=1)
#: Columns shown above all others, even if empty.
_FIRST = ("actor", "target", "outcome", "request_id", "ip")
_TITLES = {"request_id": "Request", "ip": "Address", "metadata_version": "Version", "window_id": "Window"}
#: Neighbours that have a timeline, and what it is a timeline of.
_STORIES = {"Same request": "request", "Same actor": "actor"}
#: Columns about how the event is stored, shown below all others.
_STORED = ("environment", "metadata_version", "outbox", "outbox_id", "window_id")
#: Columns that are shown in the head or as the context.
_ELSEWHERE = frozenset({"event_type", "event_date_time", "event_context"})


@dataclass(frozen=True, slots=True)
class Act:
    """What a click on a value can do: the URLs of the resulting pages. One that is not possible is empty."""

    name: str
    label: str
    narrow: str = ""
    exclude: str = ""
    is_on: bool = False
    column: str = ""
    copy: str = ""


@for_readers
def event(request: HttpRequest, place: str) -> HttpResponse:
    """Return one event: a part of a page for htmx, otherwise a page of its own."""
    at, shown = _position(place), asked(request).state
    is_part = "HX-Request" in request.headers
    context: dict[str, Any] = {
        **frame(request, here="Events"),
        "is_part": is_part,
        "title": f"{at.outbox} {at.outbox_id}",
        "outbox": at.outbox,
        "outbox_id": at.outbox_id,
        "time": shown.zone.full(at.at),
        "back_url": reverse("explorer:page") + shown.url(),
        "minute_url": _page(replace(shown, period=Between(at.at - _A_MINUTE, at.at + _A_MINUTE), text="")),
    }
    try:
        found = reading.store(request.user).one(at, seconds=_SECONDS)
    except EventStoreError as error:
        found = ()
        context["problem"] = str(error)
    if found:
        number = _number(request, len(found))
        access.opened(request.user, found[number - 1], row=number)
        context |= _event(found[number - 1], shown)
        if number > 1:
            context["raw_url"] += f"?row={number}"
            context["around_url"] += f"&row={number}"
        context["number"] = number
        context["others"] = [
            {"number": one, "url": f"{context['permalink']}?row={one}"}
            for one in range(1, len(found) + 1)
            if one != number
        ]
        context["title"] = found[0].event.event_type
    if is_part:
        # With any other status, htmx would show nothing.
        return render(request, f"towpath/explorer/{'event' if found else '_no_event'}.html", context)
    status = (
        HTTPStatus.OK if found else HTTPStatus.SERVICE_UNAVAILABLE if "problem" in context else HTTPStatus.NOT_FOUND
    )
    return render(request, "towpath/explorer/event_page.html", context, status=status)


@for_readers
def context(request: HttpRequest, place: str) -> HttpResponse:
    """Return the context of an event as a file, byte for byte as it is stored."""
    at = _position(place)
    try:
        found = reading.store(request.user).one(at, seconds=_SECONDS)
    except EventStoreError as error:
        return HttpResponse(str(error), status=503, content_type="text/plain; charset=utf-8")
    if not found:
        raise Http404("There is no such event.")
    number = _number(request, len(found))
    one = found[number - 1]
    access.opened(request.user, one, row=number)
    name = f"{one.event.event_type}-{at.outbox_id}"
    return HttpResponse(
        one.event.event_context,
        content_type="application/json; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{_file_name(name)}.json"'},
    )


@for_readers
def neighbours(request: HttpRequest, place: str) -> HttpResponse:
    """Return the counts of what is around an event. They say who did what and when, so this is recorded as opening the
    event. For a person who has just opened it, that is a repetition."""
    at = _position(place)
    try:
        store = reading.store(request.user)
        found = store.one(at, seconds=_SECONDS)
        counts: list[int | None] = []
        if found:
            number = _number(request, len(found))
            one = found[number - 1]
            access.opened(request.user, one, row=number)
            counts = [around.count(near, store) for near in around.around(one.event)]
    except EventStoreError as error:
        return HttpResponse(str(error), status=503, content_type="text/plain; charset=utf-8")
    return render(request, "towpath/explorer/_around.html", {"counts": counts, "place": place_of(at)})


def _position(text: str) -> Position:
    try:
        return position(text)
    except (ValueError, OverflowError):
        raise Http404("This is not the address of an event.") from None


def _number(request: HttpRequest, rows: int) -> int:
    """Return which of several rows at one position is asked for, counted from 1."""
    asked = request.GET.get("row", "1")
    return int(asked) if asked in map(str, range(1, rows + 1)) else 1


def _event(found: FoundEvent, shown: State) -> dict[str, Any]:
    one = found.event
    laid_out = context_text.read(one.event_context)
    way = read_provenance(one.window_id, outbox=one.outbox, month=one.event_date_time.date())
    at = place_of(found.position)
    return {
        "event": one,
        "age": age(datetime.now(UTC) - one.event_date_time),
        "fields": [_field(name, kind, one, shown) for name, kind in _columns(shown) if name not in _STORED],
        "stored": [_field(name, kind, one, shown) for name, kind in _columns(shown) if name in _STORED],
        "context": {
            "is_json": laid_out.is_json,
            "is_whole": laid_out.is_whole,
            "lines": [
                {"line": line, "depth": min(line.depth, 8), "act": _act_of_line(line, shown)} for line in laid_out.lines
            ],
        },
        "characters": found.context_characters,
        "raw": one.event_context if found.context_characters <= _COPIED_CHARACTERS else "",
        "zone": shown.zone,
        "steps": [
            {"step": step, "at": _clock(step.at, one, shown) if step.at else ""} for step in provenance.steps(one, way)
        ],
        "neighbours": _linked(list(around.around(one)), shown),
        "place": at,
        "permalink": reverse("explorer:event", args=[at]),
        "raw_url": reverse("explorer:context", args=[at]),
        "around_url": reverse("explorer:around", args=[at]) + shown.url(),
    }


def _clock(at: datetime, one: StoredEvent, shown: State) -> str:
    """Return the time of a step, with its day unless that is the event's."""
    day, clock = shown.zone.day(at), shown.zone.clock(at)[:12]
    return clock if day == shown.zone.day(one.event_date_time) else f"{day}, {clock}"


def _columns(shown: State) -> list[tuple[str, Kind]]:
    columns = {column.name: column.kind for column in row_columns(shown.own) if column.name not in _ELSEWHERE}
    rest = sorted(columns, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    return [(name, columns[name]) for name in rest]


def _field(name: str, kind: Kind, one: StoredEvent, shown: State) -> dict[str, Any]:
    value = one.value(name)
    text = "" if value in ("", None) else shown.zone.full(value) if isinstance(value, datetime) else str(value)
    title = _TITLES.get(name) or name.replace("_", " ").capitalize()
    asked = value_of(str(value) if kind in {Kind.UUID, Kind.TIME} else value)
    act = _act(ColumnField(name, kind), asked, text, shown) if text and kind is not Kind.TIME else None
    return {"title": title, "value": text, "look": look(name, text), "act": act}


def _act_of_line(line: context_text.Line, shown: State) -> Act | None:
    if line.term is None:
        return None
    return _act(line.term.field, line.term.values[0], line.value, shown)


def _act(of: Field, value: Value | None, text: str, shown: State) -> Act:
    name = short_name(of.name, shown.own) if isinstance(of, ColumnField) else str(of)
    label = f"{name} {text[:60]}"
    has_column = any(column.name == name for column in shown.columns) or len(shown.columns) >= MOST_COLUMNS
    act = Act(name, label, copy=text, column="" if has_column else _page(_with_column(shown, name, of)))
    if value is None:
        return act
    wanted, unwanted = narrowed(shown.query, of, value), excluded(shown.query, of, value)
    return replace(
        act,
        narrow=_page(replace(shown, text=written(wanted, shown.own))),
        exclude=_page(replace(shown, text=written(unwanted, shown.own))),
        is_on=is_on(shown.query, of, value),
    )


def _with_column(shown: State, name: str, of: Field) -> State:
    return replace(shown, chosen=(*shown.columns, Shown(name, of)))


def _linked(found: list[around.Neighbours], shown: State) -> list[dict[str, Any]]:
    linked = []
    for one in found:
        there = replace(shown, text=written(one.query, shown.own), period=Between(one.since, one.until))
        story = _STORIES.get(one.name, "")
        timeline_url = reverse("explorer:timeline") + there.url(chosen=None) if story else ""
        shared = one.value or f"{shown.zone.minute(one.since)} {shown.zone.name}"
        linked.append(
            {
                "neighbours": one,
                "shared": shared,
                "url": _page(there),
                "timeline_of": story,
                "timeline_url": timeline_url,
            }
        )
    return linked


def _page(shown: State) -> str:
    return reverse("explorer:page") + shown.url()


def _file_name(text: str) -> str:
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "_" for letter in text)[:80]
