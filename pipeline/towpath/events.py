"""What the pipeline publishes about itself."""

from __future__ import annotations

from towpath.outbox.event import Event, Hashed


class DeadLetterDropped(Event):
    """An event was deleted without having been stored."""

    outbox: str
    outbox_id: int
    error: str
    dropped_by: str


class OutboxDiscarded(Event):
    """What the ledger had under the name of an outbox that is gone was given up."""

    outbox: str
    rows: int
    dead_letters: int
    discarded_by: str


class ReceiptMismatchClosed(Event):
    """Somebody has decided that the event store stays as it is, though a receipt says something else."""

    window: str
    difference: str
    reason: str
    closed_by: str


class LedgerSealed(Event):
    """A seal was made: its digest stands for every event that was delivered before."""

    number: int
    digest: str
    windows: int
    rows: int


class WindowAccepted(Event):
    """Somebody has decided that what the event store holds of a window stands, though it was proven to be otherwise."""

    window: str
    difference: str
    reason: str
    accepted_by: str


class LogRead(Event):
    """Somebody has read events, or what tells them apart, with one of Towpath's own tools."""

    tool: str
    #: Rows that were shown.
    rows: int
    detail: str
    read_by: str


class LogAudited(Event):
    """Somebody has compared the event log with its proofs."""

    windows: int
    rows: int
    seals: int
    findings: int
    audited_by: str


class LogMonthDropped(Event):
    """A month of the event log was dropped, because it was old enough."""

    month: str
    windows: int
    rows: int
    reason: str
    dropped_by: str


class EventsErased(Event):
    """Values of a person's events were masked. Whose they were is hashed: it can be asked, and not read."""

    conditions: dict[str, Hashed[str]]
    fields: list[str]
    windows: int
    rows: int
    undelivered: int
    reason: str
    erased_by: str
