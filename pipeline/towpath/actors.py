"""The actors, and what each worker process makes once: here the stages are put into dramatiq and wired to settings.

Nothing is connected at import: dramatiq forks its workers, and connections do not survive a fork.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Collection, Sequence

import dramatiq
import structlog
from django.db import DatabaseError, InterfaceError, connection
from periodiq import cron

from towpath.conf.current import config
from towpath.eventlog.connect import connect
from towpath.eventlog.store import Store
from towpath.flow.accumulate import WindowLimits
from towpath.flow.aggregator import Aggregator
from towpath.flow.dispatch import Dispatcher, DispatchLimits
from towpath.flow.recover import recover
from towpath.flow.shift import note_success, run_shift
from towpath.flow.verify import has_overdue_receipts, purge_receipts, verify_receipts
from towpath.ledger.batches import BatchMessage
from towpath.ledger.shifts import note_tick
from towpath.outbox.models import all_outboxes
from towpath.rabbitmq.broker import enqueue_all, keep_alive
from towpath.telemetry import heartbeat

log = structlog.get_logger()

#: Seconds between two looks while ids wait for room in flight.
_BUSY_PAUSE_SECONDS = 0.02
#: Seconds between two looks for stuck batches and windows.
_RECOVER_INTERVAL_SECONDS = 1.0
#: Ticks come once a minute: receipts that nobody has compared for longer are compared without one.
_UNVERIFIED_SECONDS = 90.0
_OVERDUE_INTERVAL_SECONDS = 30.0
#: Ticks that follow each other more closely are one.
_TICK_SECONDS = 1.0
_PAUSE_SECONDS = 5.0

#: Batches of an unknown outbox are logged this often, at most.
_LEFT_LOGGED_SECONDS = 60.0
_left_at = float("-inf")

#: Set when the worker process is told to stop.
stopping = threading.Event()
_shifts: list[threading.Thread] = []
_ticked_at: dict[str, float] = {}
_verifying = threading.Lock()
#: The first messages come to all actor threads at once. A cache alone would let each of them make its own.
_making = threading.RLock()


@dramatiq.actor(queue_name="aggregate", max_retries=0)
def aggregate(*, batch: int, outbox: str, ids: list[int], bytes: int) -> None:  # noqa: A002 - the message's words
    """A batch for a window. The message is acked when the window is sealed."""
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


# A tick wakes nobody: the shifts run, whether it comes or not. It is noted, so that `status` sees that the scheduler
# ticks and that the queue moves. Without retries, because these would go through a queue for delayed messages.
@dramatiq.actor(queue_name="dispatch", periodic=cron("* * * * *"), max_retries=0)
def dispatch_shift() -> None:
    """A tick for the dispatch shift."""
    _note_tick("dispatch")


@dramatiq.actor(queue_name="dispatch", periodic=cron("* * * * *"), max_retries=0)
def recover_shift() -> None:
    """A tick for the recover shift."""
    _note_tick("recover")


@dramatiq.actor(queue_name="dispatch", periodic=cron("* * * * *"), max_retries=0)
def verify() -> None:
    """Compare the receipts of the last minute with the event store, and purge old ones. The next tick does the rest."""
    # One at a time, and not again for each of many messages.
    if _verifying.acquire(blocking=False):
        try:
            _verify()
        except Exception as error:  # noqa: BLE001 - the next tick tries again, and dramatiq would only log more of it
            connection.close()
            log.warning("verify_failed", error=f"{type(error).__name__} {error}"[:500])
        finally:
            _verifying.release()


def _note_tick(name: str) -> None:
    now = time.monotonic()
    if now - _ticked_at.get(name, float("-inf")) < _TICK_SECONDS:
        return
    _ticked_at[name] = now
    try:
        note_tick(name)
    except (DatabaseError, InterfaceError) as error:
        log.warning("tick_not_noted", shift=name, error=str(error))
        connection.close()


def _verify() -> None:
    with heartbeat.progress("verify"):
        verify_receipts(event_store(), should_stop=stopping.is_set)
        purge_receipts(should_stop=stopping.is_set)


def _verify_beside() -> None:
    verify.fn()
    connection.close()


def _dispatch() -> Callable[[], float]:
    """What the dispatch shift does: look for committed outbox rows every DISPATCH_INTERVAL_SECONDS."""

    def enqueue(batches: Sequence[BatchMessage]) -> None:
        enqueue_batches(batches)
        note_success("dispatch")

    dispatcher = Dispatcher(
        all_outboxes(),
        limits=DispatchLimits(
            batch_ids=config().batch_ids,
            batch_bytes=max(1, config().window_bytes // 4),
            in_flight_rows=config().max_open_windows * max(config().window_rows, config().window_max_rows),
        ),
        enqueue=enqueue,
    )
    is_ready = False

    def work() -> float:
        nonlocal is_ready
        if not is_ready:
            dispatcher.create_cursors()
            is_ready = True
        has_more = dispatcher.look()
        keep_alive()
        return _BUSY_PAUSE_SECONDS if has_more else config().dispatch_interval_seconds

    return work


def _recover() -> Callable[[], float]:
    """What the recover shift does: look for what is stuck every second, and now and then for receipts not verified."""
    look_at = 0.0

    def work() -> float:
        nonlocal look_at
        recover(event_store(), should_stop=stopping.is_set)
        if time.monotonic() >= look_at:
            look_at = time.monotonic() + _OVERDUE_INTERVAL_SECONDS
            if has_overdue_receipts(seconds=_UNVERIFIED_SECONDS):
                # Beside the shift, because it may take minutes. No tick has come for so long, or no thread is free.
                threading.Thread(target=_verify_beside, name="verify", daemon=True).start()
        return _RECOVER_INTERVAL_SECONDS

    return work


def start_working(queues: Collection[str] | None) -> None:
    """Begin to work from the ledger: what a worker that takes messages of these queues (None: of all) does without any.

    RabbitMQ makes it quicker, and nothing else: whatever is in its queues, or is not, this goes on.
    """
    if not queues or "dispatch" in queues:
        for name, work in (("dispatch", _dispatch), ("recover", _recover)):
            shift = threading.Thread(target=_work_at, args=(name, work), name=f"{name}-shift", daemon=True)
            _shifts.append(shift)
            shift.start()
    if not queues or "aggregate" in queues:
        threading.Thread(target=_start_aggregating, name="warm-up", daemon=True).start()


def _work_at(name: str, make_work: Callable[[], Callable[[], float]]) -> None:
    run_shift(name, make_work(), stopping=stopping)


def _start_aggregating() -> None:
    """Load the event store's driver and connect: that takes up to a second, which the first event need not wait for."""
    while not stopping.is_set():
        try:
            aggregator()
            event_store().now()
            _log_findings(event_store())
        except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt may succeed
            log.warning("event_store_unreachable", error=f"{type(error).__name__} {error}"[:500])
            if _make_aggregator.cache_info().currsize:
                return
            stopping.wait(_PAUSE_SECONDS)
        else:
            return


def _log_findings(store: Store) -> None:
    """What `doctor` would say about the event store, once for each process."""
    for problem in store.problems():
        log.error("event_store_finding", check="event store table", detail=problem)
    for finding in store.findings():
        if not finding.is_ok:
            log.error("event_store_finding", check=finding.check, detail=finding.detail)


def enqueue_batches(batches: Sequence[BatchMessage]) -> None:
    """Send the batches' messages; returns when RabbitMQ has confirmed all of them."""
    heartbeat.step()
    enqueue_all(
        [aggregate.message(batch=batch.id, outbox=batch.outbox, ids=batch.ids, bytes=batch.bytes) for batch in batches]
    )


def event_store() -> Store:
    """The process's connection to the event store."""
    with _making:
        return _make_event_store()


def aggregator() -> Aggregator:
    """The process's aggregator."""
    with _making:
        return _make_aggregator()


@functools.cache
def _make_event_store() -> Store:
    return connect(config().event_store_url, timeout_seconds=config().store_timeout_seconds)


@functools.cache
def _make_aggregator() -> Aggregator:
    limits = WindowLimits(
        rows=config().window_rows,
        max_rows=max(config().window_rows, config().window_max_rows),
        payload_bytes=config().window_bytes,
        linger_seconds=config().window_linger_seconds,
    )
    aggregator = Aggregator(event_store(), limits=limits, writers=config().window_writers)
    aggregator.start()
    return aggregator


def shifts() -> Sequence[threading.Thread]:
    """The threads of this process's shifts; none in an aggregator."""
    return _shifts


def writers() -> Sequence[threading.Thread]:
    """The threads that write this process's windows; none before the first message."""
    return aggregator().writers if _make_aggregator.cache_info().currsize else ()


def start_stopping() -> None:
    """End the shifts and close windows at once; called before the worker waits for its actors."""
    stopping.set()
    if _make_aggregator.cache_info().currsize:
        aggregator().stop_lingering()


def finish_stopping(*, timeout_seconds: float) -> bool:
    """Deliver what is sealed; called after the last actor has returned. True if all was done in time."""
    deadline = time.monotonic() + timeout_seconds
    for shift in _shifts:
        shift.join(max(0.0, deadline - time.monotonic()))
    are_over = not any(shift.is_alive() for shift in _shifts)
    if not _make_aggregator.cache_info().currsize:
        return are_over
    return aggregator().close(timeout_seconds=max(0.0, deadline - time.monotonic())) and are_over
