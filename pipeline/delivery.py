"""Delivery: load, write and ack of a sealed window, and what each kind of failure means.

Three outcomes of a failed write matter (backend/eventlog/errors.py). Anything else is a fault of the program: it is
raised, and the window is taken up again when its lease ends.
"""

from __future__ import annotations

import time
from collections import Counter
from enum import Enum, auto
from typing import TYPE_CHECKING

import structlog
from django.conf import settings

from backend.eventlog.errors import OutcomeUnknown, StoreUnavailable
from pipeline import deadletters, failpoints, lease, metrics, stages, tracing
from pipeline.errors import LeaseLost, SchemaRefused, WindowTooLarge
from pipeline.load import load
from pipeline.models import Window
from pipeline.window import ack, begin_write, mark_halved, note_error, retry_later, split
from pipeline.write import write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.eventlog.store import EventStore
    from pipeline.load import LoadedWindow
    from pipeline.window import RefusedRow, SealedWindow

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
    started = moment = time.monotonic()
    context = log.bind(window=str(window.id), rows=window.row_count, attempt=window.attempts)
    with lease.held(window), tracing.of_window(window):
        try:
            loaded = _load(window)
            metrics.loaded_bytes.inc(len(loaded.rows))
            missing = _missing(window, loaded)
            moment = stages.done("load", moment, context, bytes=len(loaded.rows))
            failpoints.reach("loaded")
            begin_write(window)
            refused = write(store, window, loaded, mark_halved=lambda: mark_halved(window))
            if refused and deadletters.is_flood():
                raise SchemaRefused(f"too many rows within the hour: {refused[0].error}")  # noqa: TRY301
            moment = stages.done("write", moment, context)
            failpoints.reach("written")
            # The rows are on the store's disk from here on. If the power goes before the ack commits, the replay
            # reads back all of them and only acks.
            delivered = _delivered(loaded, refused)
            ack(window, delivered=delivered, refused=refused)
            failpoints.reach("acked")
            total_seconds = round(time.monotonic() - started, 4)
            stages.done("ack", moment, context, total_seconds=total_seconds, **stages.origins(loaded.rows))
        except WindowTooLarge:
            return _split(window)
        except LeaseLost:
            metrics.leases_lost.inc()
            context.warning("window_lease_lost")
            return Delivery.LEASE_LOST
        except StoreUnavailable as error:
            metrics.retries.labels("unavailable").inc()
            pause = retry_later(window, error=str(error))
            context.warning("window_postponed", error=str(error), retry_in_seconds=round(pause, 1))
            return Delivery.POSTPONED
        except OutcomeUnknown as error:
            # Not given back at once: the insert may still be running. The replay reads back first.
            metrics.retries.labels("unknown").inc()
            note_error(window, error=str(error))
            context.warning("window_outcome_unknown", error=str(error))
            return Delivery.POSTPONED
        except SchemaRefused as error:
            metrics.retries.labels("schema").inc()
            pause = retry_later(window, error=f"the event store refuses {error}: compare its table with `eventlog`")
            context.error("schema_refused", error=str(error), retry_in_seconds=round(pause, 1))
            return Delivery.POSTPONED
    stages.acked(delivered, loaded.rows)
    for row in refused:
        metrics.refused_rows.labels(row.outbox).inc()
        context.error("row_dead_lettered", outbox=row.outbox, row_id=row.row_id, error=row.error)
    for outbox, rows in missing.items():
        metrics.missing_rows.labels(outbox).inc(rows)
        context.error("rows_missing_in_outbox", outbox=outbox, missing=rows)
    return Delivery.ACKED


def _missing(window: SealedWindow, loaded: LoadedWindow) -> dict[str, int]:
    """Rows of the window that are not in their outbox any more, by outbox, noted in the ledger.

    Before the ack, so that the receipt says it, whatever becomes of this process.
    """
    missing = {
        outbox: rows - loaded.counts.get(outbox, 0)
        for outbox, rows in window.rows.items()
        if loaded.counts.get(outbox, 0) < rows
    }
    if missing:
        Window.objects.filter(id=window.id, lease_token=window.lease_token, acked_at=None).update(
            missing=sum(missing.values())
        )
    return missing


def _delivered(loaded: LoadedWindow, refused: Sequence[RefusedRow]) -> dict[str, int]:
    refused_by_outbox = Counter(row.outbox for row in refused)
    return {outbox: count - refused_by_outbox[outbox] for outbox, count in loaded.counts.items()}


def _load(window: SealedWindow) -> LoadedWindow:
    try:
        return load(window, max_bytes=settings.WINDOW_BYTES)
    except WindowTooLarge:
        if not window.is_write_begun:
            raise
        # It was smaller once (a lean row has grown since), and an insert under its token may arrive at any time.
        return load(window, max_bytes=None)


def _split(window: SealedWindow) -> Delivery:
    try:
        split(window)
    except LeaseLost:
        return Delivery.LEASE_LOST
    log.info("window_split", window=str(window.id), rows=window.row_count, reason="larger than WINDOW_BYTES")
    return Delivery.SPLIT
