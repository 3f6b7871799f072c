"""What the pipeline publishes about itself."""

from __future__ import annotations

from backend.outbox import Event


class DeadLetterDropped(Event):
    """An event was deleted without having been stored."""

    outbox: str
    outbox_id: int
    error: str
    dropped_by: str
