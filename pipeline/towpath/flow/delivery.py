"""Delivery: load, write and ack of a sealed window, and what each kind of failure means.

Whatever fails, the window stays in the ledger with the reason, and is tried again. One window's failure does not affect
another.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

import structlog
from django.db import DatabaseError, connection

from towpath.errors import LeaseLost, NotReadable, NotTaken, SchemaRefused, WindowTooLarge, described
from towpath.eventlog.errors import EventStoreError, OutcomeUnknown
from towpath.eventlog.proof import covered
from towpath.flow import deadletters, lease
from towpath.flow.load import HIDDEN, load
from towpath.flow.origins import origins
from towpath.flow.pause import pause_seconds
from towpath.flow.write import AttemptLimits, write
from towpath.ledger.ack import ack
from towpath.ledger.loaded import said_of
from towpath.ledger.windows import RefusedRow, begin_write, cut, is_store_proven, postpone, split
from towpath.telemetry import failpoints, metrics, report, tracing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from structlog.typing import FilteringBoundLogger as BoundLogger

    from towpath.eventlog.columns import Column
    from towpath.eventlog.rows import Identity
    from towpath.eventlog.store import EventStore
    from towpath.flow.load import LoadedWindow
    from towpath.flow.write import Written
    from towpath.ledger.windows import SealedWindow

log = structlog.get_logger()

#: A window that cannot be loaded is split from this attempt on: it may be too large for a statement's time limit or for
#: the memory, and the halves then show which rows are at fault.
_SPLIT_FROM_ATTEMPT = 2
#: From this attempt on, a window that the program itself cannot deliver holds up no other.
_ISOLATED_FROM_ATTEMPT = 3

#: The pause before the second attempt at a window, and the longest one, in seconds. The last is for rows at fault,
#: which need a person.
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_LONGEST_PAUSE_ISOLATED_SECONDS = 300.0


class Delivery(Enum):
    """The outcome of a delivery."""

    ACKED = auto()
    #: The store could not take it, or its answer was lost. The window stays in the ledger, and is tried again.
    POSTPONED = auto()
    #: The store answers, but does not take it. As POSTPONED, but other windows may succeed.
    REFUSED = auto()
    #: Something else failed. As POSTPONED, but it says nothing about the store.
    FAILED = auto()
    #: The window was replaced by two halves, which are free to be claimed.
    SPLIT = auto()
    #: Another owner has the window now.
    LEASE_LOST = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRules:
    """The rules for every owner of windows.

    `environment` and the values of `own_columns`, the project's, go into each row. `max_bytes` limits one load and one
    insert. `lease_seconds` is how long an owner has a window. While `max_open_windows` wait after a failed attempt, no
    more are sealed.
    """

    environment: str
    max_bytes: int
    lease_seconds: float
    max_open_windows: int
    own_columns: tuple[Column, ...] = ()
    #: If what was loaded is digested, to be compared with what is stored.
    compares_loaded: bool = True


def deliver(window: SealedWindow, store: EventStore, rules: WindowRules) -> Delivery:
    """Load, write and ack a sealed window: its rows get into the event store, and then out of the outbox.

    It raises only DatabaseError or InterfaceError, when a failure cannot be written into the ledger.
    """
    context = log.bind(window=str(window.id), rows=window.row_count, attempt=window.attempts)
    span = tracing.of_window(window.id, rows=window.row_count, attempt=window.attempts, origins=lambda: origins(window))
    with lease.held(window), span:
        try:
            return _attempt(window, store, rules, context)
        except LeaseLost:
            metrics.leases_lost.inc()
            context.warning("window_lease_lost")
            return Delivery.LEASE_LOST


def _attempt(window: SealedWindow, store: EventStore, rules: WindowRules, context: BoundLogger) -> Delivery:
    try:
        _deliver(window, store, rules, context)
    except LeaseLost:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it is noted in the ledger
        return _settle(window, error, context)
    return Delivery.ACKED


def _deliver(window: SealedWindow, store: EventStore, rules: WindowRules, context: BoundLogger) -> None:
    started = time.monotonic()
    loaded = _load(window, rules)
    moment = report.stage_done("load", since=started, context=context, bytes=len(loaded.rows))
    failpoints.reach("loaded")
    begin_write(window)
    is_proven = is_store_proven(window)
    written = _write(store, window, loaded, max_bytes=rules.max_bytes, is_proven=is_proven)
    outcome = _outcome(window, loaded, written, is_proven=is_proven)
    moment = report.stage_done("write", since=moment, context=context)
    failpoints.reach("written")
    # From here on, the rows are on the store's disk. If the power fails before the ack commits, the replay
    # reads back all of them and only acks.
    ack(
        window,
        delivered=outcome.delivered,
        vanished=outcome.vanished,
        refused=outcome.refused,
        left=outcome.left,
        error=written.error if outcome.refused or outcome.left else written.complaint,
        loaded=said_of(loaded.digest, columns=covered(rules.own_columns))
        if written.is_whole and rules.compares_loaded
        else "",
    )
    failpoints.reach("acked")
    total_seconds = round(time.monotonic() - started, 4)
    report.stage_done("ack", since=moment, context=context, total_seconds=total_seconds)
    report.window_delivered(outcome.delivered, event_times=loaded.event_times_of_ends())
    _report_rows_at_fault(outcome, written, context)


def _load(window: SealedWindow, rules: WindowRules) -> LoadedWindow:
    try:
        # One that was smaller once (a lean row has grown since) may not be split: an insert under its token may arrive
        # at any time.
        max_bytes = None if window.is_write_begun else rules.max_bytes
        loaded = load(window, environment=rules.environment, max_bytes=max_bytes, own_columns=rules.own_columns)
    except (DatabaseError, MemoryError) as error:
        if window.attempts >= _SPLIT_FROM_ATTEMPT and window.row_count > 1 and not window.is_write_begun:
            raise WindowTooLarge from error
        raise
    metrics.loaded_bytes.inc(len(loaded.rows))
    return loaded


def _write(
    store: EventStore, window: SealedWindow, loaded: LoadedWindow, *, max_bytes: int, is_proven: bool
) -> Written:
    limits = AttemptLimits(max_bytes=max_bytes, is_store_proven=is_proven, seconds=window.lease_seconds / 2)
    stored = store.read_back(window.id) if window.attempts > 1 else set()
    try:
        written = write(store, window, loaded, stored=stored, limits=limits, ledger=_HeldWindow(window))
    except EventStoreError as error:
        if window.attempts > 1:
            raise NotTaken from error
        raise
    if window.is_write_begun and loaded.hidden.intersection(written.left):
        # An insert with these rows may still arrive, under this window's tokens, so they stay in this window.
        raise NotReadable(HIDDEN)
    return written


class _HeldWindow:
    """The part of the ledger that `write` uses."""

    def __init__(self, window: SealedWindow) -> None:
        self._window = window

    def hold(self) -> None:
        begin_write(self._window)

    def cut(self, levels: int) -> None:
        cut(self._window, levels)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What becomes of each row of the window at its ack. The rows that are left wait in separate windows."""

    delivered: Mapping[str, int]
    vanished: Mapping[str, int]
    refused: Sequence[RefusedRow]
    left: Sequence[Identity]


def _outcome(window: SealedWindow, loaded: LoadedWindow, written: Written, *, is_proven: bool) -> _Outcome:
    """Raises SchemaRefused while it is not known whether rows are at fault or the store's table."""
    refused, left = _within_room(written)
    # The ack of an isolated window would change nothing if all its rows are still left.
    if (refused or left) and not (written.is_proven or is_proven):
        raise SchemaRefused(f"the event store accepted none of these rows: {written.error}")
    if window.is_isolated and len(left) == window.row_count:
        raise SchemaRefused(f"waiting, isolated from other rows: {written.error}")
    kept = Counter([*(row.outbox for row in refused), *(outbox for outbox, _ in left)])
    return _Outcome(
        delivered={outbox: count - kept[outbox] for outbox, count in loaded.counts.items()},
        vanished={
            outbox: rows - loaded.counts.get(outbox, 0)
            for outbox, rows in window.rows.items()
            if loaded.counts.get(outbox, 0) < rows
        },
        refused=refused,
        left=left,
    )


def _within_room(written: Written) -> tuple[list[RefusedRow], list[Identity]]:
    """The rows that become dead letters, and those that are left: also refused ones, once an outbox has too many."""
    refused, left = [], list(written.left)
    room: dict[str, int] = {}
    for row in written.refused:
        room.setdefault(row.outbox, deadletters.room(row.outbox))
        if room[row.outbox] > 0:
            room[row.outbox] -= 1
            refused.append(row)
        else:
            left.append((row.outbox, row.row_id))
    return refused, left


def _report_rows_at_fault(outcome: _Outcome, written: Written, context: BoundLogger) -> None:
    for row in outcome.refused:
        metrics.refused_rows.labels(row.outbox).inc()
        context.error("row_dead_lettered", outbox=row.outbox, row_id=row.row_id, error=row.error)
    for outbox, rows in outcome.vanished.items():
        metrics.vanished_rows.labels(outbox).inc(rows)
        context.error("rows_vanished", outbox=outbox, vanished=rows)
    if outcome.left:
        context.error("rows_isolated", isolated=len(outcome.left), error=written.error)
    if written.complaint:
        context.error("window_stored_in_spite_of_an_error", error=written.complaint)


def _settle(window: SealedWindow, error: Exception, context: BoundLogger) -> Delivery:
    """Note in the ledger why the attempt failed, so that it is tried again. Raises LeaseLost."""
    pause = _pause_seconds(window)
    match error:
        case WindowTooLarge():
            split(window)
            reason = described(error.__cause__) if error.__cause__ else "larger than WINDOW_BYTES"
            context.info("window_split", reason=reason)
            return Delivery.SPLIT
        case NotTaken(__cause__=EventStoreError() as cause):
            is_at_fault = is_store_proven(window)
            after = _pause_after(cause, window, context)
            postpone(window, error=str(cause), pause_seconds=after, is_refused=True, is_isolated=is_at_fault)
            return Delivery.REFUSED
        case EventStoreError():
            postpone(window, error=str(error), pause_seconds=_pause_after(error, window, context))
            return Delivery.POSTPONED
        case SchemaRefused():
            metrics.retries.labels("schema").inc()
            context.error("schema_refused", error=str(error), retry_in_seconds=round(pause, 1))
            postpone(window, error=str(error), pause_seconds=pause, is_refused=True)
            return Delivery.REFUSED
        case NotReadable():
            metrics.retries.labels("failed").inc()
            context.warning("window_not_readable", error=str(error))
            postpone(window, error=described(error), pause_seconds=pause, is_isolated=True)
            return Delivery.FAILED
        case _:
            metrics.retries.labels("failed").inc()
            context.error("window_failed", exc_info=error)
            if not connection.in_atomic_block:
                connection.close()  # it may be broken, or in the middle of something
            is_at_fault = window.attempts >= _ISOLATED_FROM_ATTEMPT
            postpone(window, error=described(error), pause_seconds=pause, is_isolated=is_at_fault)
            return Delivery.FAILED


def _pause_after(error: EventStoreError, window: SealedWindow, context: BoundLogger) -> float | None:
    """Report what the store has answered; None if the window is not given back before its lease runs out."""
    if isinstance(error, OutcomeUnknown):
        # The insert may still be running. The replay reads back first.
        metrics.retries.labels("unknown").inc()
        context.warning("window_outcome_unknown", error=str(error))
        return None
    pause = _pause_seconds(window)
    metrics.retries.labels("unavailable").inc()
    context.warning("window_postponed", error=str(error), retry_in_seconds=round(pause, 1))
    return pause


def _pause_seconds(window: SealedWindow) -> float:
    longest = _LONGEST_PAUSE_ISOLATED_SECONDS if window.is_isolated else _LONGEST_PAUSE_SECONDS
    return pause_seconds(window.attempts, first=_FIRST_PAUSE_SECONDS, longest=longest)
