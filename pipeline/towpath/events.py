"""What the pipeline publishes about itself."""

from __future__ import annotations

from towpath.outbox.event import Event


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
