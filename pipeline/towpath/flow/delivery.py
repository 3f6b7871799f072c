"""Delivery: load, write and ack of a sealed window, and what each kind of failure means.

Whatever fails, the window stays in the ledger with the reason and is tried again. A failure of one window is not
another's.
"""

from __future__ import annotations

import time
from collections import Counter
from enum import Enum, auto
from typing import TYPE_CHECKING

import structlog
from django.db import DatabaseError, connection

from towpath.conf.current import config
from towpath.errors import LeaseLost, NotReadable, NotTaken, SchemaRefused, WindowTooLarge, described
from towpath.eventlog.errors import EventStoreError, OutcomeUnknown
from towpath.flow import deadletters, lease
from towpath.flow.load import HIDDEN, load
from towpath.flow.origins import origins
from towpath.flow.write import AttemptLimits, write
from towpath.ledger.receipts import ack
from towpath.ledger.windows import (
    RefusedRow,
    begin_write,
    cut,
    is_store_proven,
    pause_seconds,
    postpone,
    split,
)
from towpath.telemetry import failpoints, metrics, report, tracing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import FilteringBoundLogger as BoundLogger

    from towpath.eventlog.rows import Identity
    from towpath.eventlog.store import EventStore
    from towpath.flow.load import LoadedWindow
    from towpath.flow.write import Written
    from towpath.ledger.windows import SealedWindow

log = structlog.get_logger()

#: A window that cannot be loaded is split from this attempt on: a statement's time limit or the memory may be too small
#: for it, and the halves then show which rows are at fault.
_SPLIT_FROM_ATTEMPT = 2
#: A window that the program itself cannot carry holds up no other from this attempt on.
_ISOLATED_FROM_ATTEMPT = 3


class Delivery(Enum):
    """How a delivery ended."""

    ACKED = auto()
    #: The store could not take it, or its answer was lost: the window stays in the ledger and is tried again.
    POSTPONED = auto()
    #: The store answers, and does not take it: as POSTPONED, but others may pass.
    REFUSED = auto()
    #: Something else failed: as POSTPONED, but it says nothing about the store.
    FAILED = auto()
    #: The window was replaced by two halves, which are free to be claimed.
    SPLIT = auto()
    #: Somebody else has the window now.
    LEASE_LOST = auto()


def deliver(window: SealedWindow, store: EventStore) -> Delivery:
    """Carry a sealed window into the event store and delete it from the outbox, in that order.

    Raises only what keeps it from writing a failure into the ledger: DatabaseError or InterfaceError.
    """
    context = log.bind(window=str(window.id), rows=window.row_count, attempt=window.attempts)
    span = tracing.of_window(window.id, rows=window.row_count, attempt=window.attempts, origins=lambda: origins(window))
    with lease.held(window), span:
        try:
            _carry(window, store, context)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is noted in the ledger
            return _not_delivered(window, error, context)
    return Delivery.ACKED


def _not_delivered(window: SealedWindow, error: Exception, context: BoundLogger) -> Delivery:
    match error:
        case WindowTooLarge():
            return _split(window, reason=described(error.__cause__) if error.__cause__ else "larger than WINDOW_BYTES")
        case LeaseLost():
            metrics.leases_lost.inc()
            context.warning("window_lease_lost")
            return Delivery.LEASE_LOST
        case NotTaken(__cause__=EventStoreError() as cause):
            return _postponed(window, cause, context, is_answering=True)
        case EventStoreError():
            return _postponed(window, error, context, is_answering=False)
        case SchemaRefused():
            metrics.retries.labels("schema").inc()
            pause = pause_seconds(window)
            postpone(window, error=str(error), pause_seconds=pause, is_refused=True)
            context.error("schema_refused", error=str(error), retry_in_seconds=round(pause, 1))
            return Delivery.REFUSED
    metrics.retries.labels("failed").inc()
    is_locked = isinstance(error, NotReadable)
    if is_locked:
        context.warning("window_not_readable", error=str(error))
    else:
        context.error("window_failed", exc_info=error)
        if not connection.in_atomic_block:
            connection.close()  # it may be broken, or in the middle of something
    is_isolated = is_locked or window.attempts >= _ISOLATED_FROM_ATTEMPT
    postpone(window, error=described(error), pause_seconds=pause_seconds(window), is_isolated=is_isolated)
    return Delivery.FAILED


def _postponed(window: SealedWindow, error: EventStoreError, context: BoundLogger, *, is_answering: bool) -> Delivery:
    is_isolated = is_answering and is_store_proven(window)
    if isinstance(error, OutcomeUnknown):
        # Not given back at once: the insert may still be running. The replay reads back first.
        metrics.retries.labels("unknown").inc()
        context.warning("window_outcome_unknown", error=str(error))
        pause = None
    else:
        metrics.retries.labels("unavailable").inc()
        pause = pause_seconds(window)
        context.warning("window_postponed", error=str(error), retry_in_seconds=round(pause, 1))
    postpone(window, error=str(error), pause_seconds=pause, is_refused=is_answering, is_isolated=is_isolated)
    return Delivery.REFUSED if is_answering else Delivery.POSTPONED


def _carry(window: SealedWindow, store: EventStore, context: BoundLogger) -> None:
    started = moment = time.monotonic()
    loaded = _load(window)
    metrics.loaded_bytes.inc(len(loaded.rows))
    vanished = _vanished(window, loaded)
    moment = report.stage_done("load", since=moment, context=context, bytes=len(loaded.rows))
    failpoints.reach("loaded")
    begin_write(window)
    limits = AttemptLimits(
        max_bytes=config().window_bytes,
        is_store_proven=is_store_proven(window),
        seconds=config().lease_seconds / 2,
    )
    written = _write(store, window, loaded, limits)
    if window.is_write_begun and loaded.hidden.intersection(written.left):
        # An insert that has them may arrive still, under this window's tokens: they are not parted from it.
        raise NotReadable(HIDDEN)
    refused, left = _at_fault(window, written, is_store_proven=limits.is_store_proven)
    moment = report.stage_done("write", since=moment, context=context)
    failpoints.reach("written")
    # The rows are on the store's disk from here on. If the power goes before the ack commits, the replay
    # reads back all of them and only acks.
    delivered = _delivered(loaded, refused, left)
    ack(
        window,
        delivered=delivered,
        vanished=vanished,
        refused=refused,
        left=left,
        error=written.error if refused or left else written.complaint,
    )
    failpoints.reach("acked")
    total_seconds = round(time.monotonic() - started, 4)
    report.stage_done("ack", since=moment, context=context, total_seconds=total_seconds)
    report.window_delivered(delivered, event_times=loaded.event_times_of_ends())
    for row in refused:
        metrics.refused_rows.labels(row.outbox).inc()
        context.error("row_dead_lettered", outbox=row.outbox, row_id=row.row_id, error=row.error)
    for outbox, rows in vanished.items():
        metrics.vanished_rows.labels(outbox).inc(rows)
        context.error("rows_vanished", outbox=outbox, vanished=rows)
    if left:
        context.error("rows_isolated", isolated=len(left), error=written.error)
    if written.complaint:
        context.error("window_stored_in_spite_of_an_error", error=written.complaint)


class _HeldWindow:
    """The ledger, as far as `write` speaks to it."""

    def __init__(self, window: SealedWindow) -> None:
        self._window = window

    def hold(self) -> None:
        begin_write(self._window)

    def cut(self, levels: int) -> None:
        cut(self._window, levels)


def _write(store: EventStore, window: SealedWindow, loaded: LoadedWindow, limits: AttemptLimits) -> Written:
    stored = store.read_back(window.id) if window.attempts > 1 else set()
    try:
        return write(store, window, loaded, stored=stored, limits=limits, ledger=_HeldWindow(window))
    except EventStoreError as error:
        if window.attempts > 1:
            raise NotTaken from error
        raise


def _at_fault(
    window: SealedWindow, written: Written, *, is_store_proven: bool
) -> tuple[list[RefusedRow], list[Identity]]:
    """The rows that become dead letters, and those that wait in windows of their own.

    Raises SchemaRefused while it is not known whether the rows are at fault or the store's table.
    """
    refused, left = [], list(written.left)
    room: dict[str, int] = {}
    for row in written.refused:
        room.setdefault(row.outbox, deadletters.room(row.outbox))
        if room[row.outbox] > 0:
            room[row.outbox] -= 1
            refused.append(row)
        else:
            left.append((row.outbox, row.row_id))
    is_proven = written.is_proven or is_store_proven
    # Nothing would come of the ack of an isolated window that is what it was before.
    if (refused or left) and not is_proven:
        raise SchemaRefused(f"the event store has taken none of these rows: {written.error}")
    if window.is_isolated and len(left) == window.row_count:
        raise SchemaRefused(f"waiting, apart from others: {written.error}")
    return refused, left


def _vanished(window: SealedWindow, loaded: LoadedWindow) -> dict[str, int]:
    """Rows of the window that are not in their outbox any more, by outbox."""
    return {
        outbox: rows - loaded.counts.get(outbox, 0)
        for outbox, rows in window.rows.items()
        if loaded.counts.get(outbox, 0) < rows
    }


def _delivered(loaded: LoadedWindow, refused: Sequence[RefusedRow], left: Sequence[Identity]) -> dict[str, int]:
    kept = Counter([*(row.outbox for row in refused), *(outbox for outbox, _ in left)])
    return {outbox: count - kept[outbox] for outbox, count in loaded.counts.items()}


def _load(window: SealedWindow) -> LoadedWindow:
    try:
        # One that was smaller once (a lean row has grown since) may not be split: an insert under its token may arrive
        # at any time.
        max_bytes = None if window.is_write_begun else config().window_bytes
        return load(window, environment=config().environment, max_bytes=max_bytes)
    except (DatabaseError, MemoryError) as error:
        if window.attempts >= _SPLIT_FROM_ATTEMPT and window.row_count > 1 and not window.is_write_begun:
            raise WindowTooLarge from error
        raise


def _split(window: SealedWindow, *, reason: str) -> Delivery:
    try:
        split(window)
    except LeaseLost:
        return Delivery.LEASE_LOST
    log.info("window_split", window=str(window.id), rows=window.row_count, reason=reason)
    return Delivery.SPLIT
