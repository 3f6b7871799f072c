"""Dispatch: every committed outbox row gets into exactly one batch, and the batch's ids onto RabbitMQ.

Batches and cursor are committed together, under the lock of the cursor's row. If the power fails before that COMMIT,
nothing has happened; after it and before the messages are confirmed, the batches are in the ledger and `recover`
seals them. A message is only ever a hint: none of them is the sole copy of anything.

New rows come first, whatever else there is to do. Rows that are too many for one look become a run, and each look takes
a page of it. A part of the rows in flight is reserved for new rows, and no run can fill it. So an event that is
committed just after a transaction of a million rows waits for one look, and not for the million.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog
from django.db import transaction

from towpath.ledger import batches, cursors
from towpath.ledger.batches import BatchMessage
from towpath.ledger.cursors import News
from towpath.ledger.open_windows import isolated_rows
from towpath.ledger.take import PageLimits, take_new, take_page
from towpath.telemetry import failpoints, metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from towpath.outbox.models import Outbox

log = structlog.get_logger()

#: The most rows of a page, and of all pages of backlogs in one look. It bounds the transaction, its memory, and how
#: long new rows wait for the look before.
_PAGE_ROWS = 50_000

#: One in this many of the rows in flight is reserved for new ones: by default as many as the largest window takes. With
#: a larger part, new events would wait behind more events like them.
_KEPT_FOR_NEW = 16

#: Sends a message for each batch to RabbitMQ. Returns when the broker has confirmed all of them, or raises.
EnqueueBatches = Callable[[Sequence[BatchMessage]], None]


@dataclass(frozen=True, slots=True)
class DispatchLimits:
    """At most `batch_ids` ids or `batch_bytes` payload bytes per batch, and `in_flight_rows` between dispatch and
    ack."""

    batch_ids: int
    batch_bytes: int
    in_flight_rows: int
    #: Ids and payload bytes of a batch of a backlog, if they are more: as many as make a window.
    backlog_batch_ids: int = 0
    backlog_batch_bytes: int = 0

    @property
    def largest_batch_ids(self) -> int:
        """The most ids of a batch of a backlog."""
        return max(self.batch_ids, self.backlog_batch_ids)

    @property
    def new_rows(self) -> int:
        """The part of the rows in flight that is reserved for new rows. Backlogs have the rest."""
        return self.in_flight_rows // _KEPT_FOR_NEW

    def whole_windows(self, rows: int) -> int:
        """Return how many of these rows of a backlog make full windows. The rest comes with the next page."""
        # If there is not even room for two windows, half of the room is one.
        window = max(1, min(self.backlog_batch_ids, (self.in_flight_rows - self.new_rows + 1) // 2))
        return rows // window * window


@dataclass(slots=True)
class _Room:
    """How many more rows may be in flight: of backlogs, of new rows, and of the new rows of each outbox."""

    backlog: int
    new: int
    new_of_each: dict[str, int]

    def of_new(self, outbox: str) -> int:
        """Return how many new rows of the outbox may be dispatched in one page."""
        return max(0, min(self.new, self.new_of_each[outbox], _PAGE_ROWS))

    def has_some_for(self, news: News) -> bool:
        """True if any rows that the look has found may be dispatched."""
        return self.backlog > 0 or (news.has_new and self.of_new(news.outbox) > 0)

    def take(self, batches: Sequence[BatchMessage]) -> None:
        """Count these rows as in flight."""
        for batch in batches:
            if batch.is_backlog:
                self.backlog -= len(batch.ids)
            else:
                self.new -= len(batch.ids)
                self.new_of_each[batch.outbox] -= len(batch.ids)


class Dispatcher:
    """Dispatches what was committed since the last look. Only one at a time works at an outbox: it holds the cursor's
    lock."""

    def __init__(
        self, outboxes: Mapping[str, type[Outbox]], *, limits: DispatchLimits, enqueue: EnqueueBatches
    ) -> None:
        self._outboxes = outboxes
        self._limits = limits
        self._enqueue = enqueue
        self._idle_snapshot: str | None = None
        self._turn = 0

    def create_cursors(self) -> None:
        """Give each outbox without a cursor one that has seen nothing.

        If the outbox's table was dispatched under another name, it gets that name's cursor, unless something is still
        under way under that name. Then it gets none, and is not dispatched, because its rows would be dispatched again.
        `status` says so.
        """
        with transaction.atomic():
            for name in self._outboxes:
                if cursors.create(name, known=self._outboxes):
                    log.warning("cursor_renamed", outbox=name)

    def look(self) -> bool:
        """Dispatch what is there, within the limit of rows in flight. True if some rows had to stay."""
        started = time.monotonic()
        waiting = self._outboxes_with_news()
        if not waiting:
            return False
        room = self._room()
        if not any(room.has_some_for(news) for news in waiting):
            return True
        # Each gets its share, in turn: one outbox with a backlog does not starve the others.
        self._turn += 1
        start = self._turn % len(waiting)
        dispatched, is_more = self._commit_pages([*waiting[start:], *waiting[:start]], room)
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

    def _commit_pages(self, waiting: Sequence[News], room: _Room) -> tuple[list[BatchMessage], bool]:
        """Put new rows, and a page of each outbox's runs, into batches, and move the cursors, all in one transaction.
        Also returns whether some rows had to stay."""
        # A page must have at least a batch's worth. Otherwise the batches of a backlog, and so its windows, would be
        # small.
        share = max(self._limits.largest_batch_ids, room.backlog // len(waiting))
        whole_windows = self._limits.whole_windows
        dispatched: list[BatchMessage] = []
        has_left_new = False
        with transaction.atomic():
            # The locks come first and in a statement of their own: the snapshot of the statement that reads the rows
            # must be younger than the cursor it starts from, or rows would be dispatched twice.
            cursor_of = cursors.lock([news.outbox for news in waiting])
            # Without the outboxes that another dispatcher works at.
            locked = [news for news in waiting if news.outbox in cursor_of]
            with_runs = [news.outbox for news in locked if cursor_of[news.outbox].runs]
            for outbox in [news.outbox for news in locked if news.has_new]:
                at = cursor_of[outbox]
                # A backlog that appears next to a run becomes another run, and takes its turn.
                pages = 0 if outbox in with_runs else whole_windows(min(share, room.backlog))
                if limits := self._page_limits(room.of_new(outbox), pages):
                    taken, cursor_of[outbox] = take_new(self._outboxes[outbox], at, limits)
                    room.take(taken)
                    dispatched += taken
                has_left_new |= cursor_of[outbox] == at
            for outbox in with_runs:
                if limits := self._page_limits(0, whole_windows(min(share, room.backlog))):
                    taken, cursor_of[outbox] = take_page(self._outboxes[outbox], cursor_of[outbox], limits)
                    room.take(taken)
                    dispatched += taken
            failpoints.reach("batches_inserted")
        return dispatched, has_left_new or any(at.runs for at in cursor_of.values())

    def _page_limits(self, new_rows: int, backlog_rows: int) -> PageLimits | None:
        """None if no row may be taken."""
        if new_rows <= 0 and backlog_rows <= 0:
            return None
        limits = self._limits
        return PageLimits(
            new_rows=new_rows,
            backlog_rows=max(0, backlog_rows),
            batch_ids=limits.batch_ids,
            batch_bytes=limits.batch_bytes,
            backlog_batch_ids=limits.backlog_batch_ids,
            backlog_batch_bytes=limits.backlog_batch_bytes,
        )

    def _room(self) -> _Room:
        limits = self._limits
        most_backlog = limits.in_flight_rows - limits.new_rows
        least_backlog = min(limits.largest_batch_ids, (most_backlog + 1) // 2)
        least_new = min(limits.batch_ids, limits.new_rows)
        # No outbox takes all the room that is reserved for new rows.
        share_of_new = max(limits.new_rows // len(self._outboxes), least_new)

        # Rows of outboxes that this program does not know move once a program knows them: they take no room from
        # others.
        in_flight = batches.in_flight(list(self._outboxes))
        room = _Room(
            backlog=most_backlog - in_flight.backlog,
            new=limits.new_rows - sum(in_flight.new.values()),
            new_of_each={outbox: share_of_new - in_flight.new.get(outbox, 0) for outbox in self._outboxes},
        )
        if room.backlog < least_backlog or room.new < least_new or min(room.new_of_each.values()) <= 0:
            # Rows at fault wait for a person, and take no room from others.
            isolated = isolated_rows()
            # Isolated rows are in batches of a backlog. A window that is at fault as a whole keeps its own batches.
            isolated_new = max(0, isolated - in_flight.backlog)
            room.backlog += isolated - isolated_new
            room.new += isolated_new
            room.new_of_each = {outbox: rows + isolated_new for outbox, rows in room.new_of_each.items()}
        # A page must be worth it, and new rows wait for at most this one.
        room.backlog = 0 if room.backlog < least_backlog else min(room.backlog, max(_PAGE_ROWS, least_backlog))
        return room

    def _outboxes_with_news(self) -> list[News]:
        # If no transaction has ended since a look that found nothing, there is nothing to look for: an idle look
        # costs the same with one outbox and with fifty.
        snapshot = cursors.current_snapshot()
        if snapshot == self._idle_snapshot:
            return []
        waiting = []
        for news in cursors.news(self._outboxes):
            if news.is_of_another_cluster:
                self._rewind(news.outbox)
                waiting.append(replace(news, has_new=True))
            elif news.has_new or news.has_runs:
                waiting.append(news)
        self._idle_snapshot = None if waiting else snapshot
        return waiting

    def _rewind(self, name: str) -> None:
        """Rewind after a restore into another cluster, whose transaction ids are not those that the cursor has seen."""
        if cursors.rewind(self._outboxes[name]):
            log.warning("cursor_rewound", outbox=name, action="dispatching again all rows that no open batch holds")
