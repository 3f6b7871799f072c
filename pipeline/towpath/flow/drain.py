"""Drain: deliver everything in this process, with or without workers and RabbitMQ. For a project that leaves.

It runs the dispatcher's looks without messages, and recovery then takes each batch immediately. Both are safe next to
workers that do the same. It can be stopped at any point, and run again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from towpath.flow import stranded
from towpath.flow.dispatch import Dispatcher
from towpath.flow.recover import recover
from towpath.flow.verify import verify_receipts
from towpath.ledger.left import exists, find_left
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towpath.eventlog.store import EventStore, VerifiableStore
    from towpath.flow.accumulate import WindowLimits
    from towpath.flow.delivery import WindowRules
    from towpath.flow.dispatch import DispatchLimits
    from towpath.ledger.batches import BatchMessage
    from towpath.ledger.left import Left

_PAUSE_SECONDS = 0.5


def drain(
    store: EventStore,
    rules: WindowRules,
    *,
    verifier: VerifiableStore,
    dispatch_limits: DispatchLimits,
    window_limits: WindowLimits,
    patience_seconds: float,
) -> Left:
    """Deliver and verify until only dead letters are left, if any; return what is left.

    `verifier` is the store for verification. It may be the same one.

    It gives up when the rest has not become smaller for `patience_seconds`: the store takes nothing, a worker holds a
    window, or something still publishes.
    """
    outboxes = {name: model for name, model in all_outboxes().items() if exists(name)}
    dispatcher = Dispatcher(outboxes, limits=dispatch_limits, enqueue=_leave_to_recovery)
    dispatcher.create_cursors()
    stranded.bring_back()
    least, since = float("inf"), time.monotonic()
    while True:
        dispatcher.look()
        recovered = recover(store, rules, limits=window_limits, unsealed_seconds=0, should_stop=lambda: False)
        left = find_left(list(outboxes))
        if left.undelivered == left.unconfirmed_receipts:
            verify_receipts(verifier, should_stop=lambda: False)
            left = find_left(list(outboxes))
        if left.undelivered < least:
            least, since = left.undelivered, time.monotonic()
        if not left.undelivered or time.monotonic() - since > patience_seconds:
            return left
        if not recovered:
            time.sleep(_PAUSE_SECONDS)


def _leave_to_recovery(_batches: Sequence[BatchMessage]) -> None:
    """Send no message: the batches are in the ledger, and recovery takes them in a moment."""
