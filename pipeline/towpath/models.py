"""Every model of the application, where Django looks for them."""

from __future__ import annotations

from towpath.ledger.models import (
    Backfill,
    Batch,
    Canary,
    ContradictedWindow,
    Coverage,
    Cursor,
    DeadLetter,
    Foreign,
    History,
    Mark,
    PackedProofs,
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
    "ContradictedWindow",
    "Coverage",
    "Cursor",
    "DeadLetter",
    "Foreign",
    "History",
    "Mark",
    "OutboxEvent",
    "PackedProofs",
    "Pause",
    "Proof",
    "Seal",
    "Shift",
    "Window",
]
