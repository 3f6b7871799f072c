"""Pages of a search within a time budget: newest first, whatever the range, for every store.

The store is asked for the newest period, and then for the one before it, which is longer if there is time. So a page
costs what finding its events takes, and not what its range holds. When the budget is used up, the answer says how far
back it is complete.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from towpath.eventlog.errors import LimitReached
from towpath.eventlog.search import Bar, FoundEvents, Position
from towpath.eventlog.values import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from towpath.eventlog.query import Query
    from towpath.eventlog.search import SearchableStore

#: The first period. It fills most first pages.
FIRST = timedelta(minutes=15)
#: How much longer the next one may be, and how much shorter.
_GROWTH, _LEAST_GROWTH = 16.0, 0.25
#: The share of the budget that a period should take.
_SHARE_OF_PERIOD = 0.3
#: A period shorter than this is not halved: then the query itself is too much for the store's user.
_SHORTEST = timedelta(seconds=1)
#: The share of the remaining budget that one statement may take, so that a shorter period can follow.
_SHARE_OF_STATEMENT = 0.5
#: The seconds that one statement may take in any case.
_LEAST_SECONDS = 0.1

SAMPLE_ROWS = 5_000
SAMPLE_CHARACTERS = 1_000


@dataclass(frozen=True, slots=True)
class Page:
    """The newest events of a range. Everything before `next` has not been searched; everything after it is here."""

    events: FoundEvents
    searched_back_to: datetime
    #: Where the next page begins: its `before`. None if there are no more events.
    next: Position | None

    @property
    def is_complete(self) -> bool:
        """True if the range has no other events."""
        return self.next is None


@dataclass(frozen=True, slots=True)
class Histogram:
    """The bars of a range from `searched_back_to` on. The bar that contains it counts only part of its events."""

    bars: Sequence[Bar]
    searched_back_to: datetime
    is_complete: bool


def newest(
    store: SearchableStore,
    query: Query,
    *,
    since: datetime,
    until: datetime,
    before: Position | None = None,
    rows: int,
    most_characters: int | None = None,
    seconds: float,
    first: timedelta = FIRST,
    clock: Callable[[], float] = time.monotonic,
) -> Page:
    """Return a page of `rows` events: fewer if the range has no more or `seconds` are over, and a few more if events
    share the last position. `first`, the first period, may be longer if it is known how far a page goes.

    Raises StoreUnavailable, and LimitReached if even the shortest period takes too long.
    """
    since, until = nearest(since.astimezone(UTC)), nearest(until.astimezone(UTC))
    if before is not None:
        until = min(until, before.at + timedelta(microseconds=1))
    parts: list[FoundEvents] = []

    def ask(start: datetime, end: datetime, limit: float) -> bool:
        parts.append(
            store.search(
                query,
                since=start,
                until=end,
                before=before,
                rows=rows - sum(map(len, parts)),
                most_characters=most_characters,
                seconds=limit,
            )
        )
        return sum(map(len, parts)) >= rows

    back_to = _searched_back(ask, since=since, until=until, seconds=seconds, first=first, clock=clock)
    return _page(FoundEvents.joined(parts), rows=rows, back_to=back_to, is_complete=back_to <= since)


def _page(events: FoundEvents, *, rows: int, back_to: datetime, is_complete: bool) -> Page:
    """Return the page of these events, and where the next one begins."""
    if len(events) >= rows:
        last = events[-1].position
        return Page(events, last.at, last)
    return Page(events, back_to, None if is_complete else Position.at_start_of(back_to))


def sample(
    store: SearchableStore,
    query: Query,
    *,
    since: datetime,
    until: datetime,
    rows: int = SAMPLE_ROWS,
    most_characters: int = SAMPLE_CHARACTERS,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Page:
    """Return the newest events with the beginnings of their contexts, for figures that are shown as those of a
    sample."""
    return newest(
        store,
        query,
        since=since,
        until=until,
        rows=rows,
        most_characters=most_characters,
        seconds=seconds,
        clock=clock,
    )


def histogram(
    store: SearchableStore,
    query: Query,
    *,
    since: datetime,
    until: datetime,
    step: timedelta,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Histogram:
    """Return the bars of the range, or of its newest part if `seconds` are over.

    Raises StoreUnavailable, and LimitReached if even the shortest period takes too long.
    """
    since, until = nearest(since.astimezone(UTC)), nearest(until.astimezone(UTC))
    counts: Counter[tuple[datetime, str]] = Counter()

    def ask(start: datetime, end: datetime, limit: float) -> bool:
        for bar in store.histogram(query, since=start, until=end, step=step, seconds=limit):
            counts[bar.start, bar.event_type] += bar.events
        return False

    back_to = _searched_back(ask, since=since, until=until, seconds=seconds, clock=clock)
    bars = [Bar(start, event_type, events) for (start, event_type), events in sorted(counts.items())]
    return Histogram(bars, back_to, back_to <= since)


def _searched_back(
    ask: Callable[[datetime, datetime, float], bool],
    *,
    since: datetime,
    until: datetime,
    seconds: float,
    first: timedelta = FIRST,
    clock: Callable[[], float],
) -> datetime:
    """Ask for periods from the newest end of the range on, until there is enough, or the time is over.

    `ask(start, end, seconds)` returns whether it is enough. Returns the start of the last period that was searched.
    """
    began = clock()
    end, length, growth = until, first, _GROWTH
    while end > since:
        asked = clock()
        remaining = seconds - (asked - began)
        if remaining <= 0 and end < until:
            break
        start = end - min(length, end - since)
        try:
            is_enough = ask(start, end, max(remaining * _SHARE_OF_STATEMENT, _LEAST_SECONDS))
        except LimitReached:
            length, growth = (end - start) / 2, 1.0
            if length >= _SHORTEST and clock() - began < seconds:
                continue
            # Without a searched period, the same question would only be asked again.
            if end == until:
                raise
            break
        end = start
        if is_enough:
            break
        took = clock() - asked
        length *= min(growth, max(_LEAST_GROWTH, seconds * _SHARE_OF_PERIOD / took)) if took > 0 else growth
    return end
