"""Events as a file: exactly what the page's query and period find, newest first, in constant memory.

The end of a file says how the export ended: complete, at the limit, or stopped, and why. A file without it was cut off.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from towpath.eventlog.errors import EventStoreError, LimitReached
from towpath.eventlog.paging import FIRST, newest
from towpath.eventlog.search import FoundEvents
from towpath.eventlog.values import EARLIEST, TOO_LATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from towpath.eventlog.paging import Page
    from towpath.eventlog.query import Query
    from towpath.eventlog.search import FoundEvent, Position, SearchableStore
    from towpath.explorer.state import Between

#: The most rows of one file. The dialog says so beforehand, and the file at its end.
MOST_ROWS = 1_000_000
#: The longest that an export may occupy a thread of the web process.
MOST_SECONDS = 900.0
#: The time limit of one page of the log, which may take searches in several periods.
_PAGE_SECONDS = 20.0
_ONE_SECONDS = 5.0
_FIRST_ROWS, _LEAST_ROWS, _MOST_PAGE_ROWS = 500, 50, 10_000
#: The most characters of all contexts on a page. A context that is longer than its share is read separately.
_PAGE_CHARACTERS = 16_000_000
_LONGEST = TOO_LATE - EARLIEST
#: The next page searches a period this many times longer than the last page needed for as many events.
_PERIOD_RESERVE = 1.5
#: A context is read separately if it is more than this many times longer than the last page's average.
_RESERVE = 4


class End(StrEnum):
    """How an export has ended."""

    COMPLETE = "complete"
    LIMIT = "limit"
    STOPPED = "stopped"


@dataclass(slots=True)
class Progress:
    """How far an export is, and how it ended once it has."""

    most_rows: int
    rows: int = 0
    end: End = End.STOPPED
    #: Why it was stopped, if it was.
    reason: str = "the reader has closed the connection"

    def add(self, batch: Batch) -> None:
        """Count the events of a batch that is written."""
        self.rows += len(batch.events)
        self.end = batch.end or self.end
        self.reason = batch.reason or self.reason

    @property
    def in_words(self) -> str:
        """The sentence at the end of the file."""
        match self.end:
            case End.COMPLETE:
                return f"Complete: {self.rows:,} events."
            case End.LIMIT:
                return (
                    f"Not complete: only the newest {self.rows:,} events, which is the limit. Export a shorter period."
                )
            case End.STOPPED:
                return f"Not complete: stopped after {self.rows:,} events, because {self.reason}."


class Format(Protocol):
    """A format of a file. `begin`, `events` and `finish` return its bytes in order."""

    content_type: str
    suffix: str

    def begin(self) -> bytes:
        """Return what comes before the first event."""

    def events(self, found: FoundEvents) -> bytes:
        """Return the events as the format writes them. It is called any number of times."""

    def finish(self, progress: Progress) -> bytes:
        """Return what comes after the last event, which says how many events there are and how the export ended."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The events of one page with whole contexts, newest first. The last batch also has the end of the export, and the
    reason if it was stopped."""

    events: FoundEvents
    end: End | None = None
    reason: str = ""


def pieces(
    store: SearchableStore, query: Query, period: Between, written: Format, progress: Progress
) -> Iterator[bytes]:
    """Yield the file. Raises EventStoreError only before the first piece; after that, the file says that it was
    stopped."""
    found = batches(store, query, period, most_rows=progress.most_rows)
    # The next page is read while one is written. If nobody waits for it any more, its time limit ends it.
    with ThreadPoolExecutor(1, thread_name_prefix="towpath-export") as reader:
        batch = reader.submit(next, found).result()
        begin = written.begin()
        try:
            while True:
                following = None if batch.end else reader.submit(next, found)
                progress.add(batch)
                yield begin + written.events(batch.events)
                begin = b""
                if following is None:
                    break
                batch = following.result()
        except LimitReached:
            progress.reason = "finding older events takes longer than the event store's user is allowed"
        except EventStoreError:
            progress.reason = "the event store does not answer"
    yield written.finish(progress)


def batches(
    store: SearchableStore,
    query: Query,
    period: Between,
    *,
    most_rows: int,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Batch]:
    """Yield the events page by page. There is at least one batch, which may be empty. Raises EventStoreError."""
    before: Position | None = None
    rows, size, ends = 0, _Size(), clock() + MOST_SECONDS
    while True:
        page = newest(
            store,
            query,
            since=period.since,
            until=period.until,
            before=before,
            rows=min(size.rows, most_rows - rows),
            most_characters=size.characters,
            seconds=_PAGE_SECONDS,
            first=size.period,
            clock=clock,
        )
        size.learn(page)
        events = whole(store, page.events)
        rows += len(events)
        before = page.next
        if before is None:
            yield Batch(events, End.COMPLETE)
            return
        if rows >= most_rows:
            yield Batch(events, End.LIMIT)
            return
        if clock() > ends:
            yield Batch(events, End.STOPPED, "it has taken too long")
            return
        yield Batch(events)


@dataclass(slots=True)
class _Size:
    """The size of the next page. Rows times characters stays the same, however long the contexts are."""

    rows: int = _FIRST_ROWS
    #: The period that the first search covers. The last page's period shows how dense the events are.
    period: timedelta = FIRST
    characters: int = field(default=_PAGE_CHARACTERS // _FIRST_ROWS)

    def learn(self, page: Page) -> None:
        if page.events:
            average = sum(page.events.context_characters) / len(page.events)
            wanted = int(_PAGE_CHARACTERS / (_RESERVE * max(average, 1.0)))
            self.rows = min(max(wanted, _LEAST_ROWS), _MOST_PAGE_ROWS)
            self.characters = _PAGE_CHARACTERS // self.rows
            span = page.events[0].position.at - page.events[-1].position.at
            # As a number of seconds: centuries times the rows of a page would overflow a timedelta.
            wished = span.total_seconds() * _PERIOD_RESERVE * self.rows / len(page.events)
            self.period = timedelta(seconds=min(max(wished, FIRST.total_seconds()), _LONGEST.total_seconds()))


def whole(store: SearchableStore, events: FoundEvents) -> FoundEvents:
    """Return the events with whole contexts: those that were cut are read again. Raises EventStoreError."""
    if not events or events.are_whole:
        return events
    found: list[FoundEvent] = []
    for position, same in groupby(events, key=lambda one: one.position):
        here = list(same)
        # An event that was dropped in the meantime is left out, and one that is stored twice is exported twice.
        found += here if all(one.is_whole for one in here) else store.one(position, seconds=_ONE_SECONDS)[: len(here)]
    return FoundEvents.of(found)
