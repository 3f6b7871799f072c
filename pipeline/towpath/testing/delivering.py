"""From dispatch to ack within a test, with the code that does it in production. Only RabbitMQ is left out.

The events of a test that is rolled back are never committed, but the dispatcher takes only what its snapshot shows as
committed. So it is given a snapshot that shows everything, including this transaction, as the target that it would
reach on its own. That works at every isolation level. A cursor that has seen a transaction does not look at it again,
so the cursors are rewound each time, as after a restore.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING
from unittest import mock

from towpath.conf.current import config
from towpath.eventlog.stores.memory import MemoryStore
from towpath.eventlog.values import as_text
from towpath.flow.accumulate import Accumulator
from towpath.flow.delivery import Delivery, deliver
from towpath.flow.dispatch import Dispatcher
from towpath.ledger import cursors, deadletters, open_windows
from towpath.ledger.windows import seal
from towpath.outbox.models import all_outboxes
from towpath.testing.events import FoundEvent, StoredEvents
from towpath.wiring import dispatch_limits, window_limits, window_rules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from towpath.eventlog.stores.memory import StoredRow
    from towpath.ledger.batches import BatchMessage
    from towpath.ledger.windows import SealedWindow
    from towpath.testing.published import Published

_ANY_SIZE = 2**62


class Deliver:
    """The `deliver()` of a test. `store` is the store in memory, which a test may inspect or damage."""

    def __init__(self, published: Published) -> None:
        self.store = MemoryStore(own_columns=config().columns)
        self._published = published

    def __call__(self) -> StoredEvents:
        """Deliver every published event, and return all events that the store then holds.

        Raises AssertionError if the store does not accept all of them.
        """
        before = self._published.all()
        # The thread that renews leases would use its own connection, which does not see this transaction.
        with mock.patch("towpath.flow.lease.held", contextlib.nullcontext):
            self._deliver_all()
        self._published.remember_delivered(before)
        if letters := deadletters.read(None):
            refused = "\n".join(f"  {letter.outbox} {letter.row_id}: {letter.error}" for letter in letters)
            raise AssertionError(f"the event store refuses:\n{refused}")
        if isolated := open_windows.read_open():
            left = "\n".join(f"  {sum(window.rows.values())} row(s): {window.last_error}" for window in isolated)
            raise AssertionError(f"these wait, isolated from other rows:\n{left}")
        return StoredEvents(_found(row, self.store.added_values(row)) for row in self.store.rows)

    def _deliver_all(self) -> None:
        batches: list[BatchMessage] = []
        dispatcher = _dispatcher(batches)
        is_more = True
        while is_more:
            cursors.see_everything_uncommitted()
            is_more = dispatcher.look()
            self._aggregate(batches)
            batches.clear()

    def _aggregate(self, batches: list[BatchMessage]) -> None:
        limits = window_limits(config())
        waiting: Accumulator[int] = Accumulator(replace(limits, max_rows=limits.rows))
        for batch in batches:
            waiting.add(batch.id, rows=len(batch.ids), payload_bytes=batch.bytes, now=0)
        while waiting:
            batches_of_one = waiting.take(now=0).batches
            if (window := seal(batches_of_one, lease_seconds=config().lease_seconds)) is not None:
                self._write(window)

    def _write(self, window: SealedWindow) -> None:
        # A window that is too large would end its connection, and with it the test's transaction.
        delivery = deliver(window, self.store, replace(window_rules(config()), max_bytes=_ANY_SIZE))
        if delivery is not Delivery.ACKED:
            error = open_windows.read_last_error(window.id)
            raise AssertionError(f"the event store does not take a window of {window.row_count} row(s): {error}")


def _dispatcher(batches: list[BatchMessage]) -> Dispatcher:
    dispatcher = Dispatcher(all_outboxes(), limits=dispatch_limits(config()), enqueue=batches.extend)
    dispatcher.create_cursors()
    return dispatcher


def _found(row: StoredRow, added: Mapping[str, object]) -> FoundEvent:
    return FoundEvent(
        row.outbox,
        row.outbox_id,
        row.event_type,
        row.metadata_version,
        row.event_date_time,
        row.event_context.decode(),
        {name: as_text(value) for name, value in added.items() if value},
    )
