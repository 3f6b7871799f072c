"""The state of a page, which is exactly what its URL says: a link is a view.

`read` accepts any URL. A wrong parameter becomes a `Problem` of its field, and the page shows the rest as far as
possible. `State.parameters` is the inverse: `read` turns it into the same state.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

from towpath.eventlog.query import Query, QueryError, parse
from towpath.eventlog.query.periods import period
from towpath.eventlog.values import EARLIEST, TOO_LATE
from towpath.explorer import columns as shown_columns
from towpath.explorer.terms import written
from towpath.pages.zones import UTC_ZONE, Zone, as_utc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from towpath.eventlog.columns import Column
    from towpath.explorer.columns import Shown

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_IN_WORDS = {"m": "minute", "h": "hour", "d": "day"}
_LAST = re.compile(r"([1-9][0-9]{0,3})([mhd])")
_HAS_OFFSET = re.compile(r"(?:[Zz]|[-+][0-9]{2}:[0-9]{2})\Z")
_LINE_BREAK = re.compile(r"[\r\n]")
#: The query without a condition.
_EVERYTHING = Query()
_FORM = "Write a time such as 2026-11-25 21:00, or a day."


@dataclass(frozen=True, slots=True)
class Last:
    """A period up to now, such as `24h`: a number, and m, h or d."""

    text: str = "24h"

    @property
    def length(self) -> timedelta:
        return int(self.text[:-1]) * _UNITS[self.text[-1]]

    @property
    def in_words(self) -> str:
        number, unit = int(self.text[:-1]), _IN_WORDS[self.text[-1]]
        return f"Last {unit}" if number == 1 else f"Last {number} {unit}s"


@dataclass(frozen=True, slots=True)
class Between:
    """A period from `since` to before `until`."""

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a field, and what to write instead. In a query, `position` says where, counted from 0."""

    field: Literal["q", "range", "since", "until", "tz", "columns", "now"]
    text: str
    position: int | None = None
    #: Two lines: the query, and a caret below the position.
    pointed: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """What a page searches for, and how it shows the result."""

    text: str = ""
    query: Query = _EVERYTHING
    period: Last | Between = Last()
    zone: Zone = UTC_ZONE
    #: The chosen columns. None means the default columns.
    chosen: tuple[Shown, ...] | None = None
    own: tuple[Column, ...] = ()

    @property
    def columns(self) -> tuple[Shown, ...]:
        return shown_columns.default(self.own) if self.chosen is None else self.chosen

    def bounds(self, now: datetime) -> Between:
        """Return the period as two moments."""
        match self.period:
            case Between():
                return self.period
            case Last(length=length):
                return Between(max(now - length, EARLIEST), now)

    def parameters(self) -> dict[str, str]:
        """Return the parameters of the URL, without those that have their default value."""
        found = {"q": self.text} if self.text else {}
        match self.period:
            case Between(since, until):
                found |= {"since": as_utc(since), "until": as_utc(until)}
            case Last(text) if text != Last().text:
                found["range"] = text
        if self.zone != UTC_ZONE:
            found["tz"] = self.zone.name
        if self.chosen is not None:
            found["columns"] = ",".join(column.name for column in self.chosen)
        return found

    def url(self, **changes: Any) -> str:
        """Return the query part of the URL for this state with these changes. It begins with `?`."""
        return f"?{urlencode(replace(self, **changes).parameters())}"


def read(
    parameters: Mapping[str, str], *, own: tuple[Column, ...] = (), now: datetime | None = None
) -> tuple[State, list[Problem]]:
    """Return the state that a URL's parameters describe, and what is wrong with them. `own` are the project's own
    columns. `now` is the end of a period that has none (default: the current time)."""
    problems: list[Problem] = []
    state = State(own=own)
    text = parameters.get("q", "").strip()
    try:
        query = parse(text, columns=own)
        # A form that is sent changes line breaks. Written as escapes, they stay.
        state = replace(state, text=written(query, own) if _LINE_BREAK.search(text) else text, query=query)
    except QueryError as error:
        # A lone surrogate would fail when the page is encoded.
        text = text.encode("utf-8", "replace").decode()
        state = replace(state, text=text)
        problems.append(Problem("q", str(error), error.position, error.pointed().partition("^")[0] + "^"))
    if name := parameters.get("tz", ""):
        try:
            state = replace(state, zone=Zone.named(name))
        except ValueError:
            problems.append(Problem("tz", "There is no such time zone. Write UTC, or a name such as Europe/Berlin."))
    try:
        state = replace(state, period=_period(parameters, state.zone, now or datetime.now(UTC)))
    except _Wrong as wrong:
        problems.append(wrong.problem)
    if listed := parameters.get("columns", ""):
        try:
            state = replace(state, chosen=shown_columns.read(listed, own) or None)
        except ValueError as error:
            problems.append(Problem("columns", str(error).encode("utf-8", "replace").decode()))
    return state, problems


class _Wrong(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


def _period(parameters: Mapping[str, str], zone: Zone, now: datetime) -> Last | Between:
    since, until = parameters.get("since", "").strip(), parameters.get("until", "").strip()
    if not since and not until:
        text = parameters.get("range", "").strip() or Last().text
        if not _LAST.fullmatch(text):
            raise _Wrong(Problem("range", "This is not a range. Write a number and m, h or d, such as 15m or 24h."))
        return Last(text)
    if not since:
        raise _Wrong(Problem("since", f"The start is missing. {_FORM}"))
    start = _moment("since", since, zone)
    end = _moment("until", until, zone) if until else now
    if end <= start:
        raise _Wrong(Problem("until", "The end is not after the start. Write a later time."))
    return Between(start, end)


def _moment(field: Literal["since", "until"], text: str, zone: Zone) -> datetime:
    """Return the moment in UTC that a field says. An end that is a day includes all of that day."""
    text = text.replace(" ", "T", 1)
    try:
        found = period(text)
        moment = found.end if field == "until" and "T" not in text.upper() else found.start
        if not _HAS_OFFSET.search(text):
            moment = zone.moment(moment, is_end=field == "until")
        if EARLIEST <= moment <= TOO_LATE:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _Wrong(Problem(field, f"This is not a time. {_FORM}")) from None
    raise _Wrong(Problem(field, "No event has this time. Write a time in the years 1900 to 2299."))
