"""Everything that the product does with the ledger, once, in this process: what a statement costs is measured here.

And the windows in between, one after the other, with looks, recovery and verification as often as in the product.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from django.conf import settings
from django.db import connection

from tests.benchmarks.in_process import Dispatched, make_dispatcher
from tests.benchmarks.traffic import publish_events, publish_users
from tests.integration.windows import deliver, has_room, seal
from towpath import wiring
from towpath.conf.current import config
from towpath.eventlog.rows import Identity, lines, values
from towpath.flow.delivery import Delivery
from towpath.flow.recover import recover
from towpath.flow.verify import purge_receipts, verify_receipts
from towpath.ledger import batches, receipts, shifts, windows
from towpath.outbox.models import all_outboxes
from towpath.watch.gauges import read_gauges
from towpath.watch.period import read_period
from towpath.watch.status import read_status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.buffers import Buffers
    from towpath.flow.dispatch import Dispatcher
    from towpath.ledger.windows import SealedWindow

#: More than are ever in flight here.
_ROOM = 1_000_000

#: How long ago the period is that a person asks for, and how long it is.
OLD_PERIOD_AGO = timedelta(days=29)
OLD_PERIOD = timedelta(minutes=1.4)


class RememberingStore:
    """An event store that remembers which rows it has been given, and takes no time for it."""

    def __init__(self) -> None:
        self._rows: dict[UUID, set[Identity]] = {}

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:
        del row_count, token
        for line in lines(rows):
            row = values(line)
            window = self._rows.setdefault(UUID(row["window_id"].decode()), set())
            window.add((row["outbox"].decode(), int(row["outbox_id"])))

    def read_back(self, window_id: UUID) -> set[Identity]:
        return self._rows.get(window_id, set())

    def counts(self, window_ids: Sequence[UUID]) -> Mapping[UUID, Mapping[str, int]]:
        found = {window: self._rows[window] for window in window_ids if window in self._rows}
        return {window: Counter(outbox for outbox, _ in rows) for window, rows in found.items()}

    def now(self) -> datetime:
        return datetime.now(UTC)

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The stages of the pipeline, called one by one in this process."""

    store: RememberingStore
    dispatcher: Dispatcher
    dispatched: Dispatched

    @classmethod
    def new(cls) -> Pipeline:
        """As of processes that have just started."""
        dispatched = Dispatched()
        dispatcher = make_dispatcher(all_outboxes(), enqueue=dispatched, in_flight_rows=_ROOM)
        return cls(RememberingStore(), dispatcher, dispatched)

    # --- Windows ---------------------------------------------------------------------------------------------------

    def carry(self, count: int, *, recover_every: int, verify_every: int) -> None:
        """Publish, dispatch and deliver so many windows of one row, each after a look of its own."""
        shift = shifts.take_if_free("benchmark", silent_seconds=0)
        assert shift is not None
        for number in range(1, count + 1):
            assert self.deliver(self.sealed()) is Delivery.ACKED
            if number % recover_every == 0:
                shifts.keep("benchmark", shift, alive_every_seconds=0)
                self.recover()
            if number % verify_every == 0:
                self.verify()

    def batch_of_one_row(self) -> int:
        """Publish a row and dispatch it; the batch's number."""
        publish_events(1)
        while not self.dispatched.batches:
            self.dispatcher.look()
        return self.dispatched.batches.pop().id

    def sealed(self) -> SealedWindow:
        """A window of one row."""
        window = seal([self.batch_of_one_row()])
        assert window is not None
        return window

    def deliver(self, window: SealedWindow) -> Delivery:
        """Load, write and ack."""
        return deliver(window, self.store)

    def recover(self, *, unsealed_seconds: float = 30) -> int:
        """A turn of the recover shift."""
        return recover(
            self.store,
            wiring.window_rules(config()),
            limits=wiring.window_limits(config()),
            unsealed_seconds=unsealed_seconds,
            should_stop=lambda: False,
        )

    def verify(self) -> None:
        """What a tick of the scheduler asks for."""
        verify_receipts(self.store, should_stop=lambda: False)
        purge_receipts(receipt_days=settings.TOWPATH.receipt_days, should_stop=lambda: False)

    # --- Everything, once ------------------------------------------------------------------------------------------

    def go_round(self, buffers: Buffers) -> None:
        """Do everything once, each under a name of its own. Begins and ends with nothing under way."""
        self._look(buffers)
        self._deliver(buffers)
        self._recover(buffers)
        self._verify(buffers)
        self._keep_shift(buffers)
        self._watch(buffers)

    def _look(self, buffers: Buffers) -> None:
        while self.dispatcher.look():
            pass
        with buffers.during("look, nothing was committed"):
            self.dispatcher.look()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()")
        with buffers.during("look, others commit"):
            self.dispatcher.look()
        publish_events(3)
        publish_users(3)
        with buffers.during("look, rows of two outboxes"):
            self.dispatcher.look()
        publish_events(1)
        with buffers.during("look, no room"):
            make_dispatcher(all_outboxes(), enqueue=self.dispatched, in_flight_rows=1).look()
        with buffers.during("first look of a new process"):
            make_dispatcher(all_outboxes(), enqueue=self.dispatched, in_flight_rows=_ROOM).look()

    def _deliver(self, buffers: Buffers) -> None:
        ids = [batch.id for batch in self.dispatched.batches]
        self.dispatched.batches.clear()
        with buffers.during("accumulate"):
            batches.unsealed(ids, outboxes=list(all_outboxes()), late_seconds=60)
            has_room()
        with buffers.during("deliver"):
            window = seal(ids)
            assert window is not None
            windows.renew([window])
            assert self.deliver(window) is Delivery.ACKED

    def _recover(self, buffers: Buffers) -> None:
        with buffers.during("recover, nothing to do"):
            assert self.recover() == 0
        self.batch_of_one_row()
        with buffers.during("recover, a batch"):
            assert self.recover(unsealed_seconds=0) == 1
        window = self.sealed()
        with buffers.during("a window fails"):
            windows.cut(window, 1)
            windows.postpone(window, error="a test", pause_seconds=0, is_refused=True)
        with buffers.during("recover, a window"):
            assert self.recover() == 1

    def _verify(self, buffers: Buffers) -> None:
        # As many receipts each time.
        verify_receipts(self.store, should_stop=lambda: False)
        self.carry(20, recover_every=20, verify_every=21)
        with buffers.during("verify, 20 receipts"):
            verify_receipts(self.store, should_stop=lambda: False)
        with buffers.during("verify, nothing to do"):
            verify_receipts(self.store, should_stop=lambda: False)
            receipts.has_overdue(seconds=90)
        with buffers.during("purge"):
            purge_receipts(receipt_days=settings.TOWPATH.receipt_days, should_stop=lambda: False)

    def _keep_shift(self, buffers: Buffers) -> None:
        with buffers.during("shift"):
            token = shifts.take_if_free("benchmark", silent_seconds=0)
            assert token is not None
            assert shifts.keep("benchmark", token, alive_every_seconds=0)
            shifts.note_tick("benchmark")

    def _watch(self, buffers: Buffers) -> None:
        with buffers.during("status"):
            read_status()
        with buffers.during("gauges"):
            read_gauges()
        since = datetime.now(UTC) - OLD_PERIOD_AGO
        with buffers.during("pipeline verify, an old period"):
            read_period(self.store, since=since, until=since + OLD_PERIOD)
