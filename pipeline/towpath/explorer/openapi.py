"""The explorer's API as part of an OpenAPI 3.1 document, whatever framework the project uses for the rest of it."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

_TEXT = {"type": "string"}
_TIME = {"type": "string", "format": "date-time"}
_PROBLEM = {
    "type": "object",
    "required": ["detail"],
    "properties": {
        "detail": {**_TEXT, "description": "What is wrong, and what to write instead."},
        "field": {**_TEXT, "description": "The parameter."},
        "position": {"type": ["integer", "null"], "description": "The position in the query, counted from 0."},
    },
}


def _parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": {**_TEXT, **schema}}


_PERIOD = [
    _parameter("q", "A query, such as `type:login -outcome:success`. Empty for everything.", maxLength=4000),
    _parameter("range", "The time up to now: a number and m, h or d.", pattern="^[1-9][0-9]{0,3}[mhd]$", default="24h"),
    _parameter("since", "From this time on, instead of `range`: `2026-11-25T21:00:00Z`, or a day."),
    _parameter("until", "Before this time. With a day, up to its end."),
    _parameter("tz", "The zone of times without an offset.", default="UTC"),
    _parameter("now", "The end of `range` with an offset, so that several requests cover the same period."),
]
_EVENT = {
    "type": "object",
    "description": "The columns of the event log. `event_context` is the stored JSON, or text where it is not JSON.",
    "required": ["event_type", "event_date_time", "outbox", "outbox_id", "event_context"],
    "properties": {
        "event_type": _TEXT,
        "event_date_time": _TIME,
        "outbox": _TEXT,
        "outbox_id": {"type": "integer"},
        "event_context": {},
    },
}
_PAGE = {
    "type": "object",
    "required": ["events", "searched_back_to", "next", "is_complete"],
    "properties": {
        "events": {"type": "array", "items": _EVENT},
        "searched_back_to": {
            **_TIME,
            "description": "Every event from this time on is on this page or an earlier one.",
        },
        "next": {"type": ["string", "null"], "description": "The `before` of the next page; null if there is none."},
        "is_complete": {"type": "boolean"},
    },
}
_BARS = {
    "type": "object",
    "required": ["seconds", "bars", "back_to", "is_complete"],
    "properties": {
        "seconds": {"type": "number", "description": "The length of a bar."},
        "bars": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["start", "event_type", "events"],
                "properties": {"start": _TIME, "event_type": _TEXT, "events": {"type": "integer"}},
            },
        },
        "back_to": {
            **_TIME,
            "description": "Counted back to this time. If the count is not complete, ask again with it.",
        },
        "is_complete": {"type": "boolean"},
    },
}


def paths() -> dict[str, Any]:
    """Return the `paths` of the API, at the URLs that the project has given them."""
    rows = {"type": "integer", "minimum": 1, "maximum": 500, "default": 100}
    return {
        reverse("explorer:api-search"): _get(
            "Search events, newest first",
            [
                *_PERIOD,
                {**_parameter("rows", "The number of events on a page."), "schema": rows},
                _parameter("before", "The `next` of the previous page."),
            ],
            {"application/json": {"schema": _PAGE}},
            {"403": "The permission to export is missing: contexts are whole."},
        ),
        reverse("explorer:api-histogram"): _get(
            "Count events by time and type",
            [*_PERIOD, _parameter("back_to", "The `back_to` of the previous answer.")],
            {"application/json": {"schema": _BARS}},
        ),
        reverse("explorer:api-export"): _get(
            "Export events as a file",
            [
                *_PERIOD,
                _parameter("columns", "For CSV: the columns besides the time, such as `type,context.amount`."),
                {**_parameter("format", "", enum=["csv", "ndjson", "parquet"]), "required": True},
                _parameter("as", "Only for NDJSON.", enum=["cloudevents"]),
            ],
            {
                "text/csv": {"schema": _TEXT},
                "application/x-ndjson": {"schema": _TEXT},
                "application/vnd.apache.parquet": {"schema": {**_TEXT, "format": "binary"}},
            },
            {"501": "Parquet is not installed."},
        ),
    }


def _get(
    summary: str, parameters: list[dict[str, Any]], content: dict[str, Any], more: dict[str, str] | None = None
) -> dict[str, Any]:
    refusals = {
        "400": "The query is wrong: `position` says where.",
        "401": "Not signed in.",
        "403": "The permission is missing.",
        "422": "Another parameter is wrong: `field` says which.",
        "503": "The event store does not answer, or the search takes too long.",
        **(more or {}),
    }
    problems = {
        status: {"description": text, "content": {"application/json": {"schema": _PROBLEM}}}
        for status, text in sorted(refusals.items())
    }
    return {
        "get": {
            "tags": ["events"],
            "summary": summary,
            "operationId": "events_" + summary.split(maxsplit=1)[0].lower(),
            "parameters": parameters,
            "responses": {"200": {"description": "OK", "content": content}, **problems},
        }
    }
