"""Delivery: load, write and ack of a sealed window, and what each kind of failure means.

Three outcomes of a failed write matter (backend/eventlog/errors.py). Anything else is a fault of the program: it is
raised, and the window is taken up again when its lease ends.
"""

from __future__ import annotations

import time
from enum import Enum, auto
from typing import TYPE_CHECKING

import structlog

from backend.eventlog.errors import OutcomeUnknown, RowsRefused, StoreUnavailable
from pipeline import lease
from pipeline.errors import WindowTooLarge
from pipeline.load import load
from pipeline.window import ack, note_error, retry_later, split
from pipeline.write import write

if TYPE_CHECKING:
    from backend.eventlog.store import EventStore
    from pipeline.window import SealedWindow

log = structlog.get_logger()


class Delivery(Enum):
    """How a delivery ended."""

    ACKED = auto()
    #: The store could not take it, or its answer was lost: the window stays in the ledger and is tried again.
    POSTPONED = auto()
    #: The window was replaced by two halves, which are free to be claimed.
    SPLIT = auto()
    #: Somebody else has the window now.
    LEASE_LOST = auto()


def deliver(window: SealedWindow, store: EventStore) -> Delivery:
    """Carry a sealed window into the event store and delete it from the outbox, in that order."""
    started = time.monotonic()
    context = log.bind(window=str(window.id), rows=window.row_count, attempt=window.attempts)
    with lease.held(window):
        try:
            loaded = load(window)
            write(store, window, loaded)
        except WindowTooLarge:
            return _split(window, reason="larger than WINDOW_BYTES")
        except StoreUnavailable as error:
            pause = retry_later(window, error=str(error))
            context.warning("window_postponed", error=str(error), retry_in_seconds=round(pause, 1))
            return Delivery.POSTPONED
        except OutcomeUnknown as error:
            # Not given back at once: the insert may still be running. The replay reads back first.
            note_error(window, error=str(error))
            context.warning("window_outcome_unknown", error=str(error))
            return Delivery.POSTPONED
        except RowsRefused as error:
            return _refused(window, error)
        # The rows are on the store's disk from here on. If the power goes before the ack commits, the replay reads
        # back all of them and only acks.
        if not ack(window, delivered=loaded.counts):
            context.warning("window_lease_lost")
            return Delivery.LEASE_LOST
    if loaded.row_count < window.row_count:
        context.error("rows_missing_in_outbox", missing=window.row_count - loaded.row_count)
    context.info("window_acked", bytes=len(loaded.rows), seconds=round(time.monotonic() - started, 3))
    return Delivery.ACKED


def _split(window: SealedWindow, *, reason: str) -> Delivery:
    if not split(window):
        return Delivery.LEASE_LOST
    log.info("window_split", window=str(window.id), rows=window.row_count, reason=reason)
    return Delivery.SPLIT


def _refused(window: SealedWindow, error: RowsRefused) -> Delivery:
    pause = retry_later(window, error=str(error))
    log.error("window_refused", window=str(window.id), error=str(error), retry_in_seconds=round(pause, 1))
    return Delivery.POSTPONED
