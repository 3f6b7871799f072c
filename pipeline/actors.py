"""The actors, and what each worker process makes once: here the stages are put into dramatiq and wired to settings.

Nothing is connected at import: dramatiq forks its workers, and connections do not survive a fork.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Sequence

import dramatiq
import structlog
from django.conf import settings
from periodiq import cron

from backend.eventlog.errors import EventStoreError
from backend.eventlog.store import EventStore, connect
from backend.outbox.models import all_outboxes
from pipeline import heartbeat
from pipeline.accumulate import Closing
from pipeline.aggregator import Aggregator
from pipeline.batch import Batch
from pipeline.broker import enqueue_all
from pipeline.dispatch import Dispatcher, Limits
from pipeline.recover import recover
from pipeline.shift import run_shift
from pipeline.verify import purge_receipts, verify_receipts

log = structlog.get_logger()

#: Seconds between two looks while ids wait for room in flight.
_BUSY_PAUSE_SECONDS = 0.02
#: Seconds between two looks for stuck batches and windows.
_RECOVER_INTERVAL_SECONDS = 1.0

#: bigint's.
_LARGEST_ID = 2**63 - 1

#: Batches of an unknown outbox are logged this often, at most.
_LEFT_LOGGED_SECONDS = 60.0
_left_at = float("-inf")

#: Set when the worker process is told to stop.
stopping = threading.Event()
#: The first messages come to all actor threads at once. A cache alone would let each of them make its own.
_making = threading.RLock()


@dramatiq.actor(queue_name="aggregate", max_retries=0)
def aggregate(*, batch: int, outbox: str, ids: list[int], bytes: int) -> None:  # noqa: A002 - the message's words
    """A batch for a window. The message is acked when the window is sealed."""
    # Not the dispatcher's, then: PostgreSQL would refuse it however often it is tried, and the window with it.
    if not (type(batch) is type(bytes) is int and 0 < batch <= _LARGEST_ID):
        raise ValueError("a message that the dispatcher has not sent")
    if outbox not in all_outboxes():
        _leave_to_others(outbox)
        return
    aggregator().submit(batch, rows=len(ids), payload_bytes=bytes)


def _leave_to_others(outbox: str) -> None:
    """In a rolling update: its batch is in the ledger, where the recovery of a program that knows it finds it."""
    global _left_at  # noqa: PLW0603 - one log line a minute for the process
    if time.monotonic() - _left_at > _LEFT_LOGGED_SECONDS:
        _left_at = time.monotonic()
        log.warning("unknown_outbox_left", outbox=outbox[:100])


@dramatiq.actor(queue_name="dispatch", periodic=cron("* * * * *"), max_retries=3, min_backoff=1000, max_backoff=5000)
def dispatch_shift() -> None:
    """Look for committed outbox rows every DISPATCH_INTERVAL_SECONDS, until the next tick's shift takes over."""
    dispatcher = Dispatcher(
        all_outboxes(),
        limits=Limits(
            batch_ids=settings.BATCH_IDS,
            batch_bytes=max(1, settings.WINDOW_BYTES // 4),
            in_flight_rows=settings.MAX_OPEN_WINDOWS * max(settings.WINDOW_ROWS, settings.WINDOW_MAX_ROWS),
        ),
        publish=publish_batches,
    )
    dispatcher_is_ready = False

    def work() -> float:
        nonlocal dispatcher_is_ready
        if not dispatcher_is_ready:
            dispatcher.create_cursors()
            dispatcher_is_ready = True
        return _BUSY_PAUSE_SECONDS if dispatcher.tick() else settings.DISPATCH_INTERVAL_SECONDS

    if run_shift("dispatch", work, stopping=stopping):
        dispatch_shift.send()


@dramatiq.actor(queue_name="dispatch", periodic=cron("* * * * *"), max_retries=3, min_backoff=1000, max_backoff=5000)
def recover_shift() -> None:
    """Look for what is stuck every second, until the next tick's shift takes over."""

    def work() -> float:
        recover(event_store(), should_stop=stopping.is_set)
        return _RECOVER_INTERVAL_SECONDS

    if run_shift("recover", work, stopping=stopping):
        recover_shift.send()


@dramatiq.actor(queue_name="dispatch", periodic=cron("* * * * *"), max_retries=0)
def verify() -> None:
    """Compare the receipts of the last minute with the event store, and purge old ones. The next tick does the rest."""
    with heartbeat.progress("verify"):
        verify_receipts(event_store(), should_stop=stopping.is_set)
        purge_receipts(should_stop=stopping.is_set)


def publish_batches(batches: Sequence[Batch]) -> None:
    """Send the batches' messages; returns when RabbitMQ has confirmed all of them."""
    heartbeat.turn()
    enqueue_all(
        [aggregate.message(batch=batch.id, outbox=batch.outbox, ids=batch.ids, bytes=batch.bytes) for batch in batches]
    )


def event_store() -> EventStore:
    """The process's connection to the event store."""
    with _making:
        return _make_event_store()


def aggregator() -> Aggregator:
    """The process's aggregator."""
    with _making:
        return _make_aggregator()


@functools.cache
def _make_event_store() -> EventStore:
    return connect(settings.EVENT_STORE_URL, timeout_seconds=settings.STORE_TIMEOUT_SECONDS)


@functools.cache
def _make_aggregator() -> Aggregator:
    closing = Closing(
        settings.WINDOW_ROWS,
        settings.WINDOW_BYTES,
        settings.WINDOW_LINGER_SECONDS,
        most_rows=settings.WINDOW_MAX_ROWS,
    )
    return Aggregator(event_store(), closing=closing, writers=settings.WINDOW_WRITERS)


def warm_up() -> None:
    """Load the event store's driver and connect: that takes up to a second, which the first event need not wait for."""
    try:
        event_store().now()
        for finding in event_store().findings():
            if not finding.is_ok:
                log.error("event_store_finding", check=finding.check, detail=finding.detail)
    except EventStoreError as error:
        log.warning("event_store_unreachable", error=str(error))


def writers() -> Sequence[threading.Thread]:
    """The threads that write this process's windows; none before the first message."""
    return aggregator().writers if _make_aggregator.cache_info().currsize else ()


def start_stopping() -> None:
    """End the shifts and close windows at once; called before the worker waits for its actors."""
    stopping.set()
    if _make_aggregator.cache_info().currsize:
        aggregator().hasten()


def finish_stopping(*, timeout_seconds: float) -> bool:
    """Deliver what is sealed; called after the last actor has returned. True if all was done in time."""
    return not _make_aggregator.cache_info().currsize or aggregator().close(timeout_seconds=timeout_seconds)
