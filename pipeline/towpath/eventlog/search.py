"""Searching the event log: newest first, a page at a time, within limits.

Every statement of a search has a time limit. A search that reaches it, or another limit of the store's user, raises
`LimitReached`. It never returns part of an answer as if it were all: `towpath.eventlog.paging` then asks for less.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, overload

from towpath.eventlog.stored import BASE_NAMES, StoredEvent, same_column, streamed_columns
from towpath.eventlog.values import EARLIEST, EPOCH, LARGEST, TOO_LATE, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from towpath.eventlog.columns import Column
    from towpath.eventlog.query import Query

#: Characters that no store's text can hold: NUL, and lone surrogates.
_IN_NO_TEXT = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The position of an event in the log. Descending positions are newest first.

    A row that is stored twice has one position. Two events may share a position after the application's database was
    restored from a backup.
    """

    at: datetime
    outbox: str
    outbox_id: int

    def __post_init__(self) -> None:
        """Raise ValueError for a position that no event can have, so that no store is asked for it."""
        if self.at.tzinfo is None or not EARLIEST <= self.at <= TOO_LATE:
            raise ValueError("its time is not one that an event can have")
        if _IN_NO_TEXT.search(self.outbox) or not 0 <= self.outbox_id <= LARGEST:
            raise ValueError("its outbox or its id is not one that an event can have")

    @classmethod
    def at_start_of(cls, moment: datetime) -> Position:
        """Return the position before every event from this moment on, and after all others."""
        return cls(nearest(moment), "", 0)


@dataclass(frozen=True, slots=True)
class FoundEvent:
    """An event that a search has found. Its context may be cut to its beginning."""

    event: StoredEvent
    #: Of the whole context.
    context_characters: int

    @property
    def is_whole(self) -> bool:
        """True if the context is not cut."""
        return len(self.event.event_context) == self.context_characters

    @property
    def position(self) -> Position:
        return position_of(self.event)


class FoundEvents(Sequence[FoundEvent]):
    """What a search has found, in its order. Kept by column, so that an export of a million events makes no objects."""

    def __init__(self, columns: Mapping[str, Sequence[Any]], characters: Sequence[int]) -> None:
        """The values of `streamed_columns`, and the length of each whole context."""
        self._columns = columns
        self.context_characters = characters

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[Any]], own: tuple[Column, ...]) -> FoundEvents:
        """Make it from rows of a store's driver: `streamed_columns`, and the length of the whole context."""
        return cls.of_columns(list(zip(*rows, strict=True)), own)

    @classmethod
    def of_columns(cls, columns: Sequence[Sequence[Any]], own: tuple[Column, ...]) -> FoundEvents:
        """Of the columns of such rows; of none if there are no rows."""
        names = streamed_columns(own)
        *values, characters = columns or [()] * (len(names) + 1)
        found = {name: same_column(name, each, own) for name, each in zip(names, values, strict=True)}
        return cls(found, [length or 0 for length in characters] if None in characters else characters)

    @classmethod
    def of(cls, events: Sequence[FoundEvent]) -> FoundEvents:
        """Make it from events that are already objects."""
        names = [*BASE_NAMES, *(events[0].event.added if events else ())]
        columns = {name: [one.event.value(name) for one in events] for name in names}
        return cls(columns, [one.context_characters for one in events])

    @classmethod
    def joined(cls, parts: Sequence[FoundEvents]) -> FoundEvents:
        """Join several, in their order."""
        found = [part for part in parts if part]
        if len(found) == 1:
            return found[0]
        names = found[0]._columns if found else ()
        columns = {name: [value for part in found for value in part.column(name)] for name in names}
        return cls(columns, [length for part in found for length in part.context_characters])

    def column(self, name: str) -> Sequence[Any]:
        """Return the values of a column, which may be a project's own."""
        return self._columns[name] if self.context_characters else ()

    @property
    def are_whole(self) -> bool:
        """True if no context is cut."""
        return list(map(len, self.column("event_context"))) == list(self.context_characters)

    def __len__(self) -> int:
        return len(self.context_characters)

    @overload
    def __getitem__(self, place: int) -> FoundEvent: ...

    @overload
    def __getitem__(self, place: slice) -> FoundEvents: ...

    def __getitem__(self, place: int | slice) -> FoundEvent | FoundEvents:
        if isinstance(place, slice):
            columns = {name: values[place] for name, values in self._columns.items()}
            return FoundEvents(columns, self.context_characters[place])
        characters = self.context_characters[place]
        values = {name: column[place] for name, column in self._columns.items()}
        base = {name: values.pop(name) for name in BASE_NAMES}
        return FoundEvent(StoredEvent(**base, added=values), characters)


def position_of(event: StoredEvent) -> Position:
    """Return the position of a stored event in the log."""
    return Position(event.event_date_time, event.outbox, event.outbox_id)


@dataclass(frozen=True, slots=True, order=True)
class Bar:
    """The number of events of a type in one step of a histogram, which begins at `start`."""

    start: datetime
    event_type: str
    events: int


def bar_start(moment: datetime, step: timedelta) -> datetime:
    """Return the start of the bar that counts this moment. Bars are aligned to 1970 in UTC, so they do not move when
    the range does."""
    return EPOCH + (moment - EPOCH) // step * step


class SearchableStore(Protocol):
    """What the explorer needs of a store. Each method runs one statement, for at most `seconds`.

    Each raises StoreUnavailable, and LimitReached when a limit of the store's user ends the statement.
    """

    def search(
        self,
        query: Query,
        *,
        since: datetime,
        until: datetime,
        before: Position | None = None,
        rows: int,
        most_characters: int | None = None,
        seconds: float,
    ) -> FoundEvents:
        """Return the newest events that the query finds with `since <= event_date_time < until`, newest first.

        Parameters:
          before: only events before this position.
          rows: how many events. Others at the position of the last one come with it, so that the next page misses none.
          most_characters: contexts are cut to this length; None leaves them whole.
        """

    def histogram(
        self, query: Query, *, since: datetime, until: datetime, step: timedelta, seconds: float
    ) -> Sequence[Bar]:
        """Count what the query finds by bar and type, in the order of both, without empty bars. The first and the last
        bar count only what is within the range."""

    def one(self, position: Position, *, seconds: float) -> Sequence[FoundEvent]:
        """Return the events at a position, with whole contexts: none, one, or several that share it. Those are in the
        same order each time, because the explorer's links number them."""
