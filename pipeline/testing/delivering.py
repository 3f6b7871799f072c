"""From dispatch to ack within a test, by the code that does it in production; only RabbitMQ is left out.

The events of a test that is rolled back are never committed, and the dispatcher only takes what its snapshot shows as
committed. A snapshot shows the ids of its own transaction like those of one that has ended, provided that a transaction
with a higher id has ended, too: so one does, a savepoint that is rolled back. And since a cursor that has seen a
transaction does not look at it again, the cursors start over each time, as after a restore.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from django.db import connection, transaction
from django.test import override_settings

from backend.eventlog.columns import ADDED_COLUMNS
from backend.outbox.models import all_outboxes
from pipeline.accumulate import Accumulator, Closing
from pipeline.delivery import Delivery, deliver
from pipeline.dispatch import Dispatcher, Limits
from pipeline.models import DeadLetter, Window
from pipeline.testing.events import FoundEvent, StoredEvents
from pipeline.window import seal

if TYPE_CHECKING:
    from backend.eventlog.memory import MemoryStore, StoredRow
    from pipeline.batch import Batch
    from pipeline.testing.published import Published
    from pipeline.window import SealedWindow

_ANY_SIZE = 2**62

_START_OVER = """
UPDATE pipeline_cursor SET seen = '1:1:', target = NULL, page_xid = NULL, page_id = NULL, is_rescan = true
"""


class Deliver:
    """The fixture `deliver`. `store` is the store in memory, for the test to look into or to damage."""

    def __init__(self, published: Published, store: MemoryStore) -> None:
        self.store = store
        self._published = published

    def __call__(self) -> StoredEvents:
        """Deliver every event there is; all that the store holds then.

        Raises AssertionError when the store does not take all of them.
        """
        before = self._published.all()
        batches: list[Batch] = []
        dispatcher = _dispatcher(batches)
        is_more = True
        while is_more:
            is_more = dispatcher.tick()
            self._carry(batches)
            batches.clear()
        self._published.remember_delivered(before)
        if letters := DeadLetter.objects.order_by("id"):
            refused = "\n".join(f"  {letter.outbox} {letter.row_id}: {letter.error}" for letter in letters)
            raise AssertionError(f"the event store refuses:\n{refused}")
        return StoredEvents(_found(row) for row in self.store.rows)

    def _carry(self, batches: list[Batch]) -> None:
        waiting: Accumulator[int] = Accumulator(Closing(settings.WINDOW_ROWS, settings.WINDOW_BYTES, linger_seconds=0))
        for batch in batches:
            waiting.add(batch.id, rows=len(batch.ids), payload_bytes=batch.bytes, now=0)
        while waiting:
            if (window := seal(waiting.take())) is not None:
                self._write(window)

    def _write(self, window: SealedWindow) -> None:
        # A window that is too large would be given up with its connection, and with that the test's transaction.
        with override_settings(WINDOW_BYTES=_ANY_SIZE):
            delivery = deliver(window, self.store)
        if delivery is not Delivery.ACKED:
            error = Window.objects.values_list("last_error", flat=True).get(id=window.id)
            raise AssertionError(f"the event store does not take a window of {window.row_count} row(s): {error}")


def _dispatcher(batches: list[Batch]) -> Dispatcher:
    limits = Limits(
        batch_ids=settings.BATCH_IDS,
        batch_bytes=max(1, settings.WINDOW_BYTES // 4),
        in_flight_rows=settings.MAX_OPEN_WINDOWS * max(settings.WINDOW_ROWS, settings.WINDOW_MAX_ROWS),
    )
    dispatcher = Dispatcher(all_outboxes(), limits=limits, publish=batches.extend)
    dispatcher.create_cursors()
    with connection.cursor() as cursor:
        cursor.execute(_START_OVER)
        with transaction.atomic():
            cursor.execute(_START_OVER)  # anything that is written, so that the savepoint has an id
            transaction.set_rollback(True)
    return dispatcher


def _found(row: StoredRow) -> FoundEvent:
    return FoundEvent(
        row.outbox,
        row.outbox_id,
        row.event_type,
        row.metadata_version,
        row.event_date_time,
        row.event_context.decode(),
        {column.name: value for column, value in zip(ADDED_COLUMNS, row.added, strict=True) if value},
    )
