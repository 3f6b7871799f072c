"""Why a page is empty, and where to go from there: what a person with no result needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from towpath.eventlog.errors import LimitReached
from towpath.eventlog.query import Query
from towpath.eventlog.values import EARLIEST, TOO_LATE
from towpath.explorer.reading import NEWEST_SECONDS
from towpath.explorer.state import Between
from towpath.pages.zones import age
from towpath.watch.status import read_status

if TYPE_CHECKING:
    from datetime import datetime

    from towpath.eventlog.search import SearchableStore
    from towpath.explorer.state import State

#: The query without a condition.
_EVERYTHING = Query()


@dataclass(frozen=True, slots=True)
class Emptiness:
    """Why a page is empty. `kind` is the reason. Of the other fields, only those that belong to it are set."""

    kind: Literal["no events", "not in range", "nowhere", "limit", "away"]
    newest: str = ""
    newest_ago: str = ""
    #: A link to a period of the same length that ends after the newest event.
    jump_url: str = ""
    without_query_url: str = ""
    #: How many rows wait in PostgreSQL, by outbox. None if the person may not know.
    waiting: tuple[tuple[str, int], ...] | None = ()
    oldest: str = ""

    @property
    def waiting_rows(self) -> int:
        return sum(rows for _, rows in self.waiting or ())


def nothing_found(store: SearchableStore, state: State, *, now: datetime) -> Emptiness:
    """Return why the period has no event. Raises StoreUnavailable."""
    try:
        if found := _newest(store, state.query):
            return Emptiness(
                "not in range",
                newest=state.zone.minute(found),
                newest_ago=age(now - found) if found <= now else "",
                jump_url=state.url(period=_around(found, state, now)),
            )
        if state.query.term is None or not _newest(store, _EVERYTHING):
            return Emptiness("no events")
    except LimitReached:
        pass  # there may be an event somewhere, but finding it takes too long for a page
    return Emptiness("nowhere", without_query_url=state.url(text="", query=_EVERYTHING))


def store_away(*, has_counts: bool) -> Emptiness:
    """Return what waits in PostgreSQL while the store does not answer. None of it is lost. The counts are those of all
    events, so they are not for a person who may see only some."""
    if not has_counts:
        return Emptiness("away", waiting=None)
    figures = read_status().figures
    waiting = {name: outbox.pending + outbox.in_flight for name, outbox in figures.outboxes.items()}
    ages = [outbox.oldest_age_seconds for outbox in figures.outboxes.values() if outbox.oldest_age_seconds]
    return Emptiness(
        "away",
        waiting=tuple((name, rows) for name, rows in sorted(waiting.items()) if rows),
        oldest=age(timedelta(seconds=max(ages))) if ages else "",
    )


def _newest(store: SearchableStore, query: Query) -> datetime | None:
    """Return the time of the newest event that the query finds. One statement is enough: the log is sorted by time."""
    found = store.search(query, since=EARLIEST, until=TOO_LATE, rows=1, most_characters=0, seconds=NEWEST_SECONDS)
    return found[0].event.event_date_time if found else None


def _around(found: datetime, state: State, now: datetime) -> Between:
    bounds = state.bounds(now)
    end = found.replace(second=0, microsecond=0) + timedelta(minutes=1)
    return Between(max(end - (bounds.until - bounds.since), EARLIEST), end)
