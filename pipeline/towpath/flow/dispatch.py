"""Dispatch: every committed outbox row gets into exactly one batch, and the batch's ids onto RabbitMQ.

Batches and cursor are committed together, under the lock of the cursor's row. If the power goes before that COMMIT,
nothing has happened; after it and before the messages are confirmed, the batches are in the ledger and `recover`
seals them. A message is only ever a hint: none of them is the sole copy of anything.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from django.db import transaction

from towpath.ledger import batches, cursors
from towpath.ledger.batches import BatchMessage
from towpath.ledger.windows import isolated_rows
from towpath.telemetry import failpoints, metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from towpath.outbox.models import Outbox

log = structlog.get_logger()

#: Rows of one page, at most: bounds the transaction and the memory of one step through a large backlog.
_PAGE_ROWS = 50_000

#: Puts a message for each batch onto RabbitMQ and returns when the broker has confirmed them all, or raises.
EnqueueBatches = Callable[[Sequence[BatchMessage]], None]


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """`batch_ids` ids or `batch_bytes` payload bytes to a batch; `in_flight_rows` between dispatch and ack."""

    batch_ids: int
    batch_bytes: int
    in_flight_rows: int
    #: Ids and payload bytes of a batch of a backlog, where they are more: as many as make a window.
    backlog_batch_ids: int = 0
    backlog_batch_bytes: int = 0


class Dispatcher:
    """Moves what has been committed since the last look. One at a time works at an outbox: the cursor's row lock."""

    def __init__(
        self, outboxes: Mapping[str, type[Outbox]], *, limits: DispatchLimits, enqueue: EnqueueBatches
    ) -> None:
        self._outboxes = outboxes
        self._limits = limits
        self._enqueue = enqueue
        self._idle_snapshot: str | None = None
        self._turn = 0

    def create_cursors(self) -> None:
        """Give each outbox that has none a cursor that has seen nothing.

        One whose table another name's cursor has dispatched gets that cursor, if nothing is under way under the name.
        If something is, it gets none, and is not dispatched: its rows would be dispatched again. `status` says so.
        """
        with transaction.atomic():
            for name in self._outboxes:
                if cursors.create(name, known=self._outboxes):
                    log.warning("cursor_renamed", outbox=name)

    def look(self) -> bool:
        """Dispatch what is there, as far as the limit of rows in flight allows. True if some had to stay."""
        started = time.monotonic()
        waiting = self._outboxes_with_news()
        if not waiting:
            return False
        least_room = min(self._limits.batch_ids, self._limits.in_flight_rows)
        # Those of outboxes that nobody here knows move when somebody knows them: they take nobody's room.
        room = self._limits.in_flight_rows - batches.in_flight(list(self._outboxes))
        if room < least_room:
            # Rows at fault wait for a person, and take no room away from others.
            room += isolated_rows()
        if room < least_room:
            return True
        # Each gets its share, and the turn goes round: one outbox with a backlog does not starve the others.
        self._turn += 1
        start = self._turn % len(waiting)
        dispatched, is_more = self._commit_pages([*waiting[start:], *waiting[:start]], room=room)
        failpoints.reach("cursor_committed")
        rows_by_outbox = Counter[str]()
        for batch in dispatched:
            rows_by_outbox[batch.outbox] += len(batch.ids)
            metrics.batches.labels(batch.outbox).inc()
            metrics.dispatched_rows.labels(batch.outbox).inc(len(batch.ids))
        # From here on the ledger has the batches. Messages that are not confirmed cost latency only: recovery finds
        # the batches unsealed.
        if dispatched:
            self._enqueue(dispatched)
            failpoints.reach("enqueued")
            seconds = time.monotonic() - started
            metrics.stage_seconds.labels("dispatch").observe(seconds)
            log.info(
                "batches_dispatched", batches=len(dispatched), rows=dict(rows_by_outbox), seconds=round(seconds, 4)
            )
        return is_more

    def _commit_pages(self, names: Sequence[str], *, room: int) -> tuple[list[BatchMessage], bool]:
        """A page of each outbox into batches, the cursors forward: one transaction, all or nothing."""
        share = max(self._limits.batch_ids, room // len(names))
        dispatched: list[BatchMessage] = []
        is_more = False
        with transaction.atomic():
            # The locks come first and in a statement of their own: the snapshot of the statement that reads the rows
            # must be younger than the cursor it starts from, or rows would be dispatched twice.
            locked = cursors.lock(names)
            for name in names:
                if room <= 0:
                    is_more = True
                    break
                if name not in locked:
                    continue  # another dispatcher is at it
                page, is_full = cursors.take_page(
                    self._outboxes[name],
                    locked[name],
                    max_rows=min(share, room, _PAGE_ROWS),
                    batch_ids=self._limits.batch_ids,
                    batch_bytes=self._limits.batch_bytes,
                    backlog_batch_ids=self._limits.backlog_batch_ids,
                    backlog_batch_bytes=self._limits.backlog_batch_bytes,
                )
                room -= sum(len(batch.ids) for batch in page)
                dispatched += page
                is_more |= is_full
            failpoints.reach("batches_inserted")
        return dispatched, is_more

    def _outboxes_with_news(self) -> list[str]:
        # While no transaction has ended since a look that found nothing, there is nothing to look for: an idle look
        # costs the same with one outbox and with fifty.
        snapshot = cursors.current_snapshot()
        if snapshot == self._idle_snapshot:
            return []
        waiting = []
        for news in cursors.news(self._outboxes):
            if news.is_of_another_cluster:
                self._rewind(news.outbox)
            if news.is_of_another_cluster or news.has_rows:
                waiting.append(news.outbox)
        self._idle_snapshot = None if waiting else snapshot
        return waiting

    def _rewind(self, name: str) -> None:
        """After a restore into another cluster: its transaction ids are not those that the cursor has seen."""
        if cursors.rewind(self._outboxes[name]):
            log.warning("cursor_rewound", outbox=name, action="dispatching again all rows that no open batch holds")
