"""Every model of the application, where Django looks for them."""

from __future__ import annotations

from towpath.ledger.models import (
    Backfill,
    Batch,
    Canary,
    Coverage,
    Cursor,
    DeadLetter,
    Foreign,
    History,
    Mark,
    Pause,
    Proof,
    Seal,
    Shift,
    Window,
)
from towpath.outbox.models import OutboxEvent

__all__ = [
    "Backfill",
    "Batch",
    "Canary",
    "Coverage",
    "Cursor",
    "DeadLetter",
    "Foreign",
    "History",
    "Mark",
    "OutboxEvent",
    "Pause",
    "Proof",
    "Seal",
    "Shift",
    "Window",
]
