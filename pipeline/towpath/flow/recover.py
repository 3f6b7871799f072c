"""Recover: pick up whatever stopped on its way through the pipeline, from the ledger alone.

Two things can be stuck: a batch that no aggregator has sealed (its message was lost, or nothing consumes), and a sealed
window whose owner is gone. Both are delivered here, in this process, so nothing depends on RabbitMQ.
"""

from __future__ import annotations

import functools
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from towpath.flow.accumulate import Accumulator
from towpath.flow.delivery import Delivery, deliver
from towpath.ledger import batches, names
from towpath.ledger.stuck import move_marks_and_look
from towpath.ledger.windows import claim_expired, has_room, seal
from towpath.outbox.models import all_outboxes
from towpath.telemetry import metrics, report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from towpath.eventlog.store import EventStore
    from towpath.flow.accumulate import WindowLimits
    from towpath.flow.delivery import WindowRules
    from towpath.ledger.windows import SealedWindow

log = structlog.get_logger()

#: The most batches of one round, and how long a round lasts, in seconds.
_BATCHES_PER_ROUND = 1000
_ROUND_SECONDS = 5.0
#: The same for isolated windows, whose rows are at fault.
_ISOLATED_SECONDS = 1.0


def recover(
    store: EventStore,
    rules: WindowRules,
    *,
    limits: WindowLimits,
    unsealed_seconds: float,
    should_stop: Callable[[], bool],
    tell: Callable[[SealedWindow, Delivery], None] = lambda _window, _delivery: None,
) -> int:
    """Deliver what is overdue now; return how many windows it has tried. `tell` hears what became of each.

    It ends when the store takes no windows, or after a while, so that the shift can say that it is alive. A window that
    fails for a reason of its own does not end it.
    """
    until = time.monotonic() + _ROUND_SECONDS
    recovered = 0
    stuck = move_marks_and_look(list(all_outboxes()), unsealed_seconds=unsealed_seconds)
    is_room = stuck.has_batches and has_room(max_open_windows=rules.max_open_windows)
    for batch_ids in _overdue_windows(limits, unsealed_seconds=unsealed_seconds) if is_room else ():
        if should_stop() or time.monotonic() > until:
            return recovered
        if (window := _seal(batch_ids, rules)) is not None:
            recovered += 1
            if _delivered(window, store, rules, tell=tell) is Delivery.POSTPONED:
                return recovered
    if stuck.has_windows:
        names.free_known(list(all_outboxes()))
    # The windows sealed here may have been given back since the look: in halves, or without the rows at fault.
    claim = functools.partial(claim_expired, lease_seconds=rules.lease_seconds)
    is_any = stuck.has_windows or bool(recovered)
    while is_any and not should_stop() and time.monotonic() < until and (window := claim()) is not None:
        metrics.recovered_windows.labels("expired").inc()
        log.warning("window_recovered", window=str(window.id), attempt=window.attempts)
        recovered += 1
        if _delivered(window, store, rules, tell=tell) is Delivery.POSTPONED:
            return recovered
    if stuck.has_isolated_windows or recovered:
        recovered += _deliver_isolated(store, rules, should_stop=should_stop, tell=tell)
    return recovered


def _delivered(
    window: SealedWindow, store: EventStore, rules: WindowRules, *, tell: Callable[[SealedWindow, Delivery], None]
) -> Delivery:
    delivery = deliver(window, store, rules)
    tell(window, delivery)
    return delivery


def _deliver_isolated(
    store: EventStore,
    rules: WindowRules,
    *,
    should_stop: Callable[[], bool],
    tell: Callable[[SealedWindow, Delivery], None],
) -> int:
    """Last, and only for a short time: windows at fault may be many, and slow."""
    until = time.monotonic() + _ISOLATED_SECONDS
    delivered = 0
    while not should_stop() and (window := claim_expired(lease_seconds=rules.lease_seconds, is_isolated=True)):
        delivered += 1
        _delivered(window, store, rules, tell=tell)
        if time.monotonic() > until:
            break
    return delivered


def _seal(batch_ids: Sequence[int], rules: WindowRules) -> SealedWindow | None:
    started = time.monotonic()
    window = seal(batch_ids, lease_seconds=rules.lease_seconds, found="recovery")
    if window is not None:
        context = log.bind(window=str(window.id), rows=window.row_count)
        report.stage_done("seal", since=started, context=context, batches=len(batch_ids))
        context.warning("batches_recovered", batches=len(batch_ids))
        metrics.windows.labels("recovery").inc()
        metrics.recovered_windows.labels("unsealed").inc()
    return window


def _overdue_windows(limits: WindowLimits, *, unsealed_seconds: float) -> list[list[int]]:
    """Seal the batches that have been unsealed for too long, combined into windows."""
    # Batches of an outbox that this program does not know are left to programs that know it.
    overdue = batches.overdue(list(all_outboxes()), seconds=unsealed_seconds, limit=_BATCHES_PER_ROUND)
    # All of them are at hand, so no window needs to grow while others are written.
    waiting: Accumulator[int] = Accumulator(replace(limits, max_rows=limits.rows))
    for batch in overdue:
        waiting.add(batch.id, rows=batch.rows, payload_bytes=batch.payload_bytes, now=0)
    windows = []
    while waiting:
        windows.append(waiting.take(now=0).batches)
    return windows
