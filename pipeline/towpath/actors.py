"""The actors: they receive what arrives from RabbitMQ, and hand it to the process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dramatiq
from periodiq import cron

from towpath.conf import names
from towpath.conf.current import config
from towpath.ledger.batches import BatchMessage
from towpath.process import Process
from towpath.rabbitmq.broker import enqueue_all
from towpath.telemetry import heartbeat

_QUEUES = config().queues


@dramatiq.actor(actor_name=names.AGGREGATE, queue_name=_QUEUES.aggregate, max_retries=0)
def aggregate(*, ledger: str, batch: int, outbox: str, ids: list[int], bytes: int) -> None:  # noqa: A002 - the message's words
    """A batch for a window. The message is acked when the window is sealed.

    The ids are for people who look at the queue: only their number is used here. Which rows the batch has is in the
    ledger.
    """
    process.aggregate(batch, ledger=ledger, outbox=outbox, rows=len(ids), payload_bytes=bytes, is_backlog=False)


# Without a priority: few messages of a backlog are fetched, and they must not wait for a thread while fresh ones keep
# coming.
@dramatiq.actor(actor_name=names.AGGREGATE_BACKLOG, queue_name=_QUEUES.aggregate_backlog, max_retries=0)
def aggregate_backlog(*, ledger: str, batch: int, outbox: str, ids: list[int], bytes: int) -> None:  # noqa: A002 - the message's words
    """The same as `aggregate`, for a batch of a backlog."""
    process.aggregate(batch, ledger=ledger, outbox=outbox, rows=len(ids), payload_bytes=bytes, is_backlog=True)


# A tick wakes nothing: the shifts run, whether it comes or not. Without retries, because these would go through a queue
# for delayed names.
_EVERY_MINUTE: dict[str, Any] = {"queue_name": _QUEUES.dispatch, "periodic": cron("* * * * *"), "max_retries": 0}


@dramatiq.actor(actor_name=names.DISPATCH_SHIFT, **_EVERY_MINUTE)
def dispatch_shift() -> None:
    """A tick for the dispatch shift."""
    process.note_tick("dispatch")


@dramatiq.actor(actor_name=names.RECOVER_SHIFT, **_EVERY_MINUTE)
def recover_shift() -> None:
    """A tick for the recover shift."""
    process.note_tick("recover")


@dramatiq.actor(actor_name=names.VERIFY, **_EVERY_MINUTE)
def verify() -> None:
    """Compare the receipts of the last minute with the event store, and purge old ones. The next tick does the rest."""
    process.verify()


def enqueue_batches(batches: Sequence[BatchMessage]) -> None:
    """Send the batches' messages. Returns when RabbitMQ has confirmed all of them."""
    heartbeat.step()
    enqueue_all([_message(batch) for batch in batches])


def _message(batch: BatchMessage) -> dramatiq.Message[None]:
    actor = aggregate_backlog if batch.is_backlog else aggregate
    return actor.message(ledger=process.ledger(), batch=batch.id, outbox=batch.outbox, ids=batch.ids, bytes=batch.bytes)


process = Process(config(), enqueue=enqueue_batches)
