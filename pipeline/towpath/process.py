"""What a worker process makes once and works with: the event store, the aggregator, the shifts; and how it ends.

A process works from the ledger: its shifts and its aggregator find their work there. Messages only make that quicker.
Nothing is connected when a `Process` is made: dramatiq forks its workers, and connections do not survive a fork.
"""

from __future__ import annotations

import contextlib
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import structlog
from django.db import DatabaseError, InterfaceError, connection

from towpath import wiring
from towpath.errors import described
from towpath.flow import canary
from towpath.flow.aggregator import Aggregator
from towpath.flow.dispatch import Dispatcher
from towpath.flow.recover import recover
from towpath.flow.shift import note_success, run_shift
from towpath.flow.verify import MOST_PURGED, purge_receipts, verify_receipts
from towpath.ledger import canaries, shifts
from towpath.ledger.due import is_verification_due
from towpath.ledger.foreign import ledger_id, note_foreign
from towpath.outbox.models import all_outboxes
from towpath.proof.packing import pack_proofs
from towpath.proof.sample import check_sample_if_due
from towpath.proof.sealing import INTERVAL_SECONDS, seal_if_due
from towpath.rabbitmq.broker import keep_alive
from towpath.telemetry import heartbeat, report
from towpath.watch.history import add_minute_if_due

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from towpath.conf.config import Config
    from towpath.eventlog.store import Store
    from towpath.ledger.batches import BatchMessage

log = structlog.get_logger()

#: Seconds between two looks while ids wait for room in flight.
_BUSY_PAUSE_SECONDS = 0.02
#: Seconds between two looks for stuck batches and windows.
_RECOVER_INTERVAL_SECONDS = 1.0
#: Ticks come once a minute. What verification has not done for this long after it was due is done without one.
_OVERDUE_SECONDS = 90.0
_OVERDUE_INTERVAL_SECONDS = 30.0
#: How often a new minute of the history is looked for: it is noted within this time of its beginning.
_HISTORY_INTERVAL_SECONDS = 5.0
#: Ticks that follow each other more closely are one.
_TICK_SECONDS = 1.0
#: Seconds between two attempts to reach the event store at the start.
_PAUSE_SECONDS = 5.0
#: Batches of an unknown outbox are logged at most this often.
_LEFT_LOGGED_SECONDS = 60.0
#: Messages of another project are noted at most this often.
_FOREIGN_NOTED_SECONDS = 10.0

_LONG_AGO = float("-inf")


@contextlib.contextmanager
def _noted() -> Iterator[None]:
    """Log what fails inside. The next tick tries again, and dramatiq would only log more of it."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - as above
        connection.close()
        log.warning("verify_failed", error=described(error))


class Process:
    """One worker process. Safe to use from any number of threads."""

    def __init__(self, config: Config, *, enqueue: Callable[[Sequence[BatchMessage]], None]) -> None:
        self._config = config
        self._enqueue = enqueue
        self._stopping = threading.Event()
        self._shifts: list[threading.Thread] = []
        # The first messages reach all actor threads at the same time. Without the lock, each would make its own.
        self._making = threading.Lock()
        self._store: Store | None = None
        self._verifier_store: Store | None = None
        self._aggregator: Aggregator | None = None
        self._verifying = threading.Lock()
        self._measuring = threading.Lock()
        self._watching_canary = threading.Lock()
        self._ticked_at: dict[str, float] = {}
        self._left_at = _LONG_AGO
        self._ledger = ""
        self._foreign_at: dict[str, float] = {}

    # --- From start to end ---------------------------------------------------------------------------------------

    def start(self, queues: Collection[str] | None) -> None:
        """Begin to work as a worker that takes messages of these queues; None means all queues."""
        if not queues or self._config.queues.dispatch in queues:
            for name, make_work in (("dispatch", self._dispatching), ("recover", self._recovering)):
                work = partial(self._run_shift, name, make_work)
                shift = threading.Thread(target=work, name=f"{name}-shift", daemon=True)
                self._shifts.append(shift)
                shift.start()
        if not queues or self._config.queues.aggregate in queues:
            threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()

    def stop(self) -> None:
        """End the shifts, and close windows without waiting for more. The actors still run, but soon return."""
        self._stopping.set()
        if self._aggregator is not None:
            self._aggregator.stop_lingering()

    def drain(self, *, timeout_seconds: float) -> bool:
        """Deliver what is sealed. Call it after the last actor has returned. True if all was done in time."""
        deadline = time.monotonic() + timeout_seconds
        for shift in self._shifts:
            shift.join(max(0.0, deadline - time.monotonic()))
        is_drained = not any(shift.is_alive() for shift in self._shifts)
        if self._aggregator is not None:
            is_drained &= self._aggregator.close(timeout_seconds=max(0.0, deadline - time.monotonic()))
        return is_drained

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    @property
    def threads(self) -> Iterator[threading.Thread]:
        """Return its threads so far: its shifts, and the writers of its aggregator."""
        yield from self._shifts
        if self._aggregator is not None:
            yield from self._aggregator.writers

    # --- Made once -----------------------------------------------------------------------------------------------

    def store(self) -> Store:
        """The connection to the event store."""
        with self._making:
            return self._made_store()

    def verifier_store(self) -> Store:
        """The connection for verification, which reads contexts: the same one, unless verification has a separate
        user."""
        with self._making:
            if self._verifier_store is None:
                self._verifier_store = wiring.verifier_store(self._config, store=self._made_store())
            return self._verifier_store

    def aggregator(self) -> Aggregator:
        """The aggregator, started."""
        with self._making:
            if self._aggregator is None:
                limits = wiring.window_limits(self._config)
                rules, writers = wiring.window_rules(self._config), self._config.window_writers
                self._aggregator = Aggregator(self._made_store(), rules, limits=limits, writers=writers)
                self._aggregator.start()
            return self._aggregator

    def _made_store(self) -> Store:
        if self._store is None:
            self._store = wiring.event_store(self._config)
        return self._store

    # --- What messages ask for -----------------------------------------------------------------------------------

    def ledger(self) -> str:
        """What identifies this process's ledger."""
        with self._making:
            if not self._ledger:
                self._ledger = ledger_id()
            return self._ledger

    def aggregate(
        self, batch_id: int, *, ledger: str, outbox: str, rows: int, payload_bytes: int, is_backlog: bool
    ) -> None:
        """Return once the batch is sealed into a window."""
        if self._is_foreign(ledger, is_backlog=is_backlog):
            return  # its batch is in that ledger, where its own aggregators find it
        if outbox in all_outboxes():
            size = {"rows": rows, "payload_bytes": payload_bytes}
            self.aggregator().submit(batch_id, **size, is_backlog=is_backlog)
        # In a rolling update: its batch is in the ledger, where the recovery of a program that knows it finds it.
        elif time.monotonic() - self._left_at > _LEFT_LOGGED_SECONDS:
            self._left_at = time.monotonic()
            log.warning("unknown_outbox_left", outbox=outbox[:100])

    def _is_foreign(self, ledger: str, *, is_backlog: bool) -> bool:
        """True for a message of another project, which is noted for `status`."""
        queues, now = self._config.queues, time.monotonic()
        queue = queues.aggregate_backlog if is_backlog else queues.aggregate
        try:
            if ledger == self.ledger():
                return False
            if now - self._foreign_at.get(queue, _LONG_AGO) > _FOREIGN_NOTED_SECONDS:
                self._foreign_at[queue] = now
                note_foreign(queue, ledger=ledger)
        except (DatabaseError, InterfaceError) as error:
            # Without PostgreSQL, it is unknown whose it is: the seal waits for PostgreSQL, and skips what is not there.
            log.warning("ledger_not_read", error=described(error))
            connection.close()
            return False
        report.rejected("foreign", queue=queue)
        return True

    def note_tick(self, name: str) -> None:
        """Note that the scheduler's tick for a shift has come, for `status`."""
        now = time.monotonic()
        if now - self._ticked_at.get(name, _LONG_AGO) < _TICK_SECONDS:
            return
        self._ticked_at[name] = now
        try:
            shifts.note_tick(name)
        except (DatabaseError, InterfaceError) as error:
            log.warning("tick_not_noted", shift=name, error=str(error))
            connection.close()

    def verify(self) -> None:
        """Compare the receipts of the last minute with the event store, purge old ones, seal, check a sample, pack.

        Each of them is tried whatever becomes of the one before: a receipt that cannot be read keeps no proof unsealed.
        """
        # One at a time, and not again for each of many messages.
        if not self._verifying.acquire(blocking=False):
            return
        days, should_stop, purged = self._config.receipt_days, self._stopping.is_set, MOST_PURGED
        try:
            with heartbeat.progress("verify"):
                with _noted():
                    verify_receipts(self.verifier_store(), should_stop=should_stop)
                with _noted():
                    purged = purge_receipts(receipt_days=days, should_stop=should_stop)
                with _noted():
                    seal_if_due(key=self._config.seal_key)
                with _noted():
                    check_sample_if_due(self.verifier_store(), should_stop=should_stop)
                if purged < MOST_PURGED and not should_stop():
                    with _noted():
                        pack_proofs(receipt_days=days)
        finally:
            self._verifying.release()

    # --- Shifts --------------------------------------------------------------------------------------------------

    def _run_shift(self, name: str, make_work: Callable[[], Callable[[], float]]) -> None:
        run_shift(name, make_work(), stopping=self._stopping)

    def _dispatching(self) -> Callable[[], float]:
        """What the dispatch shift does: look for committed outbox rows every DISPATCH_INTERVAL_SECONDS."""

        def enqueue(batches: Sequence[BatchMessage]) -> None:
            self._enqueue(batches)
            note_success("dispatch")

        dispatcher = Dispatcher(all_outboxes(), limits=wiring.dispatch_limits(self._config), enqueue=enqueue)
        interval_seconds = self._config.dispatch_interval_seconds
        is_ready = False

        def work() -> float:
            nonlocal is_ready
            if not is_ready:
                dispatcher.create_cursors()
                is_ready = True
            has_more = dispatcher.look()
            keep_alive()
            return _BUSY_PAUSE_SECONDS if has_more else interval_seconds

        return work

    def _recovering(self) -> Callable[[], float]:
        """What the recover shift does: look for what is stuck, and now and then for what verification has not done."""
        look_at = measure_at = 0.0
        is_canary_known = bool(self._config.canary_seconds)

        def work() -> float:
            nonlocal look_at, measure_at, is_canary_known
            recover(
                self.store(),
                wiring.window_rules(self._config),
                limits=wiring.window_limits(self._config),
                unsealed_seconds=self._config.unsealed_seconds,
                should_stop=self._stopping.is_set,
            )
            if time.monotonic() >= measure_at:
                measure_at = time.monotonic() + _HISTORY_INTERVAL_SECONDS
                # In a separate thread: while a session holds a lock, it takes longer than a shift may be silent.
                threading.Thread(target=self._measure_beside, name="history", daemon=True).start()
            if not is_canary_known:
                canaries.forget()
                is_canary_known = True
            if self._config.canary_seconds and not self._watching_canary.locked():
                # Beside the shift, because it asks the event store until the canary is there.
                threading.Thread(target=self._canary_beside, name="canary", daemon=True).start()
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + _OVERDUE_INTERVAL_SECONDS
                if is_verification_due(
                    since_seconds=_OVERDUE_SECONDS,
                    seal_after_seconds=INTERVAL_SECONDS,
                    receipt_days=self._config.receipt_days,
                ):
                    # In a separate thread, because it may take minutes. No tick has come for that long, or no thread is
                    # free.
                    threading.Thread(target=self._verify_beside, name="verify", daemon=True).start()
            return _RECOVER_INTERVAL_SECONDS

        return work

    def _verify_beside(self) -> None:
        self.verify()
        connection.close()

    def _measure_beside(self) -> None:
        """Note a minute of the history, for the console. Nothing else depends on it."""
        # One at a time: the next one comes in seconds, and this one may wait for a lock.
        if not self._measuring.acquire(blocking=False):
            return
        try:
            add_minute_if_due()
        except (DatabaseError, InterfaceError) as error:
            log.warning("history_not_noted", error=described(error))
        finally:
            self._measuring.release()
            connection.close()

    def _canary_beside(self) -> None:
        """Send a canary when it is time, and see when it is in the event store."""
        if not self._watching_canary.acquire(blocking=False):
            return
        try:
            canary.send_if_due(every_seconds=self._config.canary_seconds)
            canary.watch(self.verifier_store(), stopping=self._stopping)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next second tries again, and `status` shows it
            log.warning("canary_failed", error=described(error))
            self._stopping.wait(_PAUSE_SECONDS)
        finally:
            self._watching_canary.release()
            connection.close()

    # --- The start of an aggregator ------------------------------------------------------------------------------

    def _warm_up(self) -> None:
        """Load the event store's driver and connect. That takes up to a second, which the first event need not wait
        for."""
        while not self._stopping.is_set():
            try:
                self.aggregator()
                self.store().now()
                _log_findings(self.store())
            except Exception as error:  # noqa: BLE001 - whatever it is, the next attempt may succeed
                log.warning("event_store_unreachable", error=described(error))
                if self._aggregator is not None:
                    return
                self._stopping.wait(_PAUSE_SECONDS)
            else:
                return


def _log_findings(store: Store) -> None:
    """Log what `doctor` would say about the event store, once per process."""
    for problem in store.problems():
        log.error("event_store_finding", check="event store table", detail=problem)
    for finding in store.findings():
        if not finding.is_ok:
            log.error("event_store_finding", check=finding.check, detail=finding.detail)
