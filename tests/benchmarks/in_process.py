"""The pipeline's stages called one by one in this process, so that each has a time of its own.

The same functions as in the product's processes; RabbitMQ is left out where a stage is looked at by itself.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from django.db import connection

from tests.integration.windows import deliver, seal
from towpath.conf.current import config
from towpath.flow.delivery import Delivery
from towpath.flow.dispatch import Dispatcher
from towpath.wiring import dispatch_limits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from towpath.eventlog.store import EventStore
    from towpath.flow.dispatch import EnqueueBatches
    from towpath.ledger.batches import BatchMessage
    from towpath.outbox.models import Outbox


@dataclass(slots=True)
class Dispatched:
    """Takes the place of RabbitMQ: the batches whose messages would be sent."""

    batches: list[BatchMessage] = field(default_factory=list)

    def __call__(self, batches: Sequence[BatchMessage], /) -> None:
        self.batches += batches


def make_dispatcher(
    outboxes: Mapping[str, type[Outbox]],
    *,
    enqueue: EnqueueBatches,
    in_flight_rows: int,
    batch_ids: int | None = None,
    window_rows: int | None = None,
) -> Dispatcher:
    """A dispatcher as `dispatch_shift` makes it, with cursors; for windows of at most so many rows."""
    limits = dispatch_limits(config())
    limits = replace(
        limits,
        batch_ids=batch_ids or limits.batch_ids,
        in_flight_rows=in_flight_rows,
        backlog_batch_ids=window_rows or batch_ids or limits.backlog_batch_ids,
    )
    dispatcher = Dispatcher(outboxes, limits=limits, enqueue=enqueue)
    dispatcher.create_cursors()
    return dispatcher


def carry_window(batches: list[BatchMessage], store: EventStore) -> None:
    """Seal, load, write and ack one window of these batches."""
    window = seal([batch.id for batch in batches])
    assert window is not None
    assert deliver(window, store) is Delivery.ACKED


def in_windows(batches: list[BatchMessage], *, rows: int) -> list[list[BatchMessage]]:
    """The batches in order, put together to windows of that many rows."""
    windows: list[list[BatchMessage]] = [[]]
    for batch in batches:
        if sum(len(member.ids) for member in windows[-1]) + len(batch.ids) > rows:
            windows.append([])
        windows[-1].append(batch)
    return [window for window in windows if window]


def drop_dispatched() -> None:
    """Take batches and their rows away as an ack does, without the event store."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT outbox FROM pipeline_batch")
        for (outbox,) in cursor.fetchall():
            cursor.execute(
                f"DELETE FROM {connection.ops.quote_name(outbox)} WHERE id = ANY("
                "ARRAY(SELECT unnest(ids) FROM pipeline_batch WHERE outbox = %s))",
                [outbox],
            )
        cursor.execute("DELETE FROM pipeline_batch")


def seconds_of_look(dispatcher: Dispatcher) -> float:
    """How long one look takes."""
    began = time.perf_counter()
    dispatcher.look()
    return time.perf_counter() - began
