"""Everything that the product does with the ledger, once, in this process: what a statement costs is measured here.

And the windows in between, one after the other, with looks, recovery and verification as often as in the product.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from django.conf import settings
from django.db import connection

from tests.benchmarks.in_process import Dispatched, make_dispatcher
from tests.benchmarks.traffic import publish_events, publish_users
from tests.integration.windows import deliver, has_room, seal
from towpath import wiring
from towpath.conf.current import config
from towpath.eventlog.columns import row_columns
from towpath.eventlog.proof import WindowDigest, covered
from towpath.eventlog.rows import Identity, lines, values
from towpath.flow.delivery import Delivery
from towpath.flow.recover import recover
from towpath.flow.verify import purge_receipts, verify_receipts
from towpath.ledger import batches, shifts, windows
from towpath.ledger.due import is_verification_due
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
PERIOD = timedelta(minutes=1.4)


class RememberingStore:
    """An event store that remembers which rows it has been given, and takes no time for it."""

    def __init__(self) -> None:
        self._rows: dict[UUID, set[Identity]] = {}

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:
        del row_count, token
        for line in lines(rows):
            row = values(line, row_columns())
            window = self._rows.setdefault(UUID(row["window_id"].decode()), set())
            window.add((row["outbox"].decode(), int(row["outbox_id"])))

    def read_back(self, window_id: UUID) -> set[Identity]:
        return self._rows.get(window_id, set())

    def counts(self, window_ids: Sequence[UUID]) -> Mapping[UUID, Mapping[str, int]]:
        found = {window: self._rows[window] for window in window_ids if window in self._rows}
        return {window: Counter(outbox for outbox, _ in rows) for window, rows in found.items()}

    def covered_columns(self) -> tuple[str, ...]:
        return covered()

    def window_digests(self, window_ids: Sequence[UUID], *, columns: Sequence[str]) -> list[WindowDigest]:
        """As long as real ones, and of no content."""
        del columns
        return [
            WindowDigest(window, outbox, date(2026, 1, 1), rows, "0" * 64, digest_sum=2**57, id_sum=2**80)
            for window, counts in self.counts(window_ids).items()
            for outbox, rows in counts.items()
        ]

    def body_digests(self, windows: Mapping[UUID, Sequence[str]]) -> Mapping[UUID, str]:
        """Of a store that has no content to compare."""
        del windows
        return {}

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
    def new(cls, *, batch_ids: int = 1, in_flight_rows: int = _ROOM) -> Pipeline:
        """As of processes that have just started."""
        dispatched = Dispatched()
        dispatcher = make_dispatcher(
            all_outboxes(), enqueue=dispatched, in_flight_rows=in_flight_rows, batch_ids=batch_ids
        )
        return cls(RememberingStore(), dispatcher, dispatched)

    # --- Windows ---------------------------------------------------------------------------------------------------

    def carry(self, count: int, *, windows_per_look: int, looks_per_turn: int) -> None:
        """Publish, dispatch and deliver so many windows of one row.

        Once every so many looks comes a turn of the recover shift, and after 10 of these, verification.
        """
        shift = shifts.take_if_free("benchmark", silent_seconds=0)
        assert shift is not None
        for look in range(1, count // windows_per_look + 1):
            for batch in self.batches_of_one_row(windows_per_look):
                self.deliver(batch)
            if look % looks_per_turn == 0:
                shifts.keep("benchmark", shift, alive_every_seconds=0)
                self.recover()
            if look % (10 * looks_per_turn) == 0:
                self.verify()

    def batches_of_one_row(self, count: int) -> list[int]:
        """Publish rows and dispatch them; the numbers of the batches."""
        publish_events(count)
        while len(self.dispatched.batches) < count:
            self.dispatcher.look()
        return self.taken_batches()

    def taken_batches(self) -> list[int]:
        """The numbers of the batches that have been dispatched since."""
        numbers = [batch.id for batch in self.dispatched.batches]
        self.dispatched.batches.clear()
        return numbers

    def sealed(self) -> SealedWindow:
        """A window of one row."""
        return _sealed(*self.batches_of_one_row(1))

    def deliver(self, *batch_ids: int) -> None:
        """Seal a window of these batches, load, write and ack it."""
        assert deliver(_sealed(*batch_ids), self.store) is Delivery.ACKED

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
        # The marks are where they are then: windows since the last turn are read, and as many of them each time.
        self.recover()
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
        ids = self.taken_batches()
        with buffers.during("accumulate"):
            batches.unsealed(ids, outboxes=list(all_outboxes()), late_seconds=60)
            has_room()
        with buffers.during("deliver"):
            window = _sealed(*ids)
            windows.renew([window])
            assert deliver(window, self.store) is Delivery.ACKED

    def _recover(self, buffers: Buffers) -> None:
        with buffers.during("recover, nothing to do"):
            assert self.recover() == 0
        self.batches_of_one_row(1)
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
        self.carry(20, windows_per_look=20, looks_per_turn=2)
        with buffers.during("verify, 20 receipts"):
            verify_receipts(self.store, should_stop=lambda: False)
        with buffers.during("verify, nothing to do"):
            verify_receipts(self.store, should_stop=lambda: False)
            is_verification_due(since_seconds=90, seal_after_seconds=3600, receipt_days=60)
        with buffers.during("purge"):
            purge_receipts(receipt_days=settings.TOWPATH.receipt_days, should_stop=lambda: False)

    def _keep_shift(self, buffers: Buffers) -> None:
        with buffers.during("shift"):
            token = shifts.take_if_free("benchmark", silent_seconds=0)
            assert token is not None
            assert shifts.keep("benchmark", token, alive_every_seconds=0)
            shifts.note_tick("benchmark")

    def _watch(self, buffers: Buffers) -> None:
        # The recover shift comes by every second.
        self.recover()
        ask_status_and_gauges(buffers)
        self.ask_for_period(buffers, "pipeline verify, an old period", ago=OLD_PERIOD_AGO)

    def ask_for_period(self, buffers: Buffers, what: str, *, ago: timedelta) -> None:
        """What `pipeline verify` asks for, of a period of some receipts."""
        since = datetime.now(UTC) - ago
        with buffers.during(what):
            read_period(self.store, since=since, until=since + PERIOD)


def ask_status_and_gauges(buffers: Buffers) -> None:
    """What people and probes ask for."""
    with buffers.during("status"):
        read_status()
    with buffers.during("gauges"):
        read_gauges()


def insert_receipts(count: int, *, oldest: timedelta, newest: timedelta) -> None:
    """As many verified receipts of windows of one row, as the product leaves them: so long ago, evenly spread."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO pipeline_window (id, lease_token, lease_until, attempts, is_write_begun, rows, bytes, sealed_at,
                                         acked_at, verified_at, delivered, dispatched_from, dispatched_to)
            SELECT gen_random_uuid(), gen_random_uuid(), at, 1, true, '{"outbox_event": 1}', 80, at, at, at,
                   '{"outbox_event": 1}', at, at
            FROM generate_series(1, %(count)s) AS n,
                 LATERAL (
                     SELECT now() - make_interval(secs => %(oldest)s - n * (%(oldest)s - %(newest)s) / %(count)s) AS at
                 ) AS time
            """,
            {"count": count, "oldest": oldest.total_seconds(), "newest": newest.total_seconds()},
        )


def _sealed(*batch_ids: int) -> SealedWindow:
    window = seal(batch_ids)
    assert window is not None
    return window
