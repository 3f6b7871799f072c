"""Every model of the application, where Django looks for them."""

from __future__ import annotations

from towpath.ledger.models import (
    Backfill,
    Batch,
    Coverage,
    Cursor,
    DeadLetter,
    Foreign,
    Mark,
    Proof,
    Seal,
    Shift,
    Window,
)
from towpath.outbox.models import OutboxEvent

__all__ = [
    "Backfill",
    "Batch",
    "Coverage",
    "Cursor",
    "DeadLetter",
    "Foreign",
    "Mark",
    "OutboxEvent",
    "Proof",
    "Seal",
    "Shift",
    "Window",
]
