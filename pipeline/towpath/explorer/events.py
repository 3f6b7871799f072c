"""What the explorer publishes: who read what in the event log, and who was refused."""

from __future__ import annotations

from typing import ClassVar

from towpath.outbox.event import Event, Outcome


class EventsSearched(Event):
    """A person searched the event log, and was shown the result."""

    #: In the canonical form of the query language; empty for everything.
    query: str
    since: str
    until: str
    #: page, api, tail or timeline.
    shown_as: str


class EventsPageRead(Event):
    """A person read a page of events, with whole contexts, through the JSON interface."""

    #: As in events_searched.
    query: str
    since: str
    until: str
    #: Where the page continues from; empty for the first page.
    before: str
    #: How many events the page has.
    rows: int


class EventOpened(Event):
    """A person opened an event."""

    outbox: str
    outbox_id: int
    opened_type: str

    @property
    def event_target(self) -> str:
        return f"{self.outbox}:{self.outbox_id}"


class EventsExported(Event):
    """A person began to export events to a file. `events_export_ended` says how many there were."""

    export: str
    query: str
    since: str
    until: str
    format: str
    most_rows: int


class EventsExportEnded(Event):
    """An export ended: complete, at its limit, or stopped early."""

    export: str
    rows: int
    #: complete, limit or stopped.
    end: str


class EventsAccessRefused(Event):
    """A signed-in person tried something that they may not do."""

    event_outcome: ClassVar[Outcome | None] = "denied"

    what: str


class EventsViewShared(Event):
    """A person shared a saved view with everyone, or stopped sharing it."""

    name: str
    query: str
    is_shared: bool
