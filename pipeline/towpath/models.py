"""Every model of the application, where Django looks for them."""

from __future__ import annotations

from towpath.ledger.models import Backfill, Batch, Cursor, DeadLetter, Foreign, Mark, Shift, Window
from towpath.outbox.models import OutboxEvent

__all__ = ["Backfill", "Batch", "Cursor", "DeadLetter", "Foreign", "Mark", "OutboxEvent", "Shift", "Window"]
