"""The aggregator of one process: a group commit over messages.

Actor threads submit their batch and wait. A writer thread takes a window's worth of batches, seals it, and releases the
threads: from then on their messages may be acked, because the ledger owns the batches. The writer then delivers the
window. While all writers are busy, windows stay open and batches stay in RabbitMQ: a slow store slows down its input.

Fresh batches and those of a backlog wait in two separate lanes, and each window belongs to one of them. While every
writer works for one lane, a spare writer takes what is due in the other. So an event that was just committed waits
neither for a backlog nor for a writer, and a stream of fresh events cannot keep a backlog waiting.

A message only says that the ledger may have a batch. Before a window begins, a writer asks the ledger, in one query,
which of the submitted batches it has; the others are released. And an idle writer looks for batches whose messages do
not come, so that a queue that others have filled costs two seconds.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import structlog
from django.db import DatabaseError, InterfaceError, connection

from towpath.errors import described
from towpath.flow.accumulate import Accumulator
from towpath.flow.delivery import Delivery, deliver
from towpath.flow.pause import pause_seconds
from towpath.ledger.batches import UnsealedBatch, unsealed
from towpath.ledger.windows import has_room, seal
from towpath.outbox.models import all_outboxes
from towpath.telemetry import failpoints, heartbeat, metrics, report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towpath.eventlog.store import EventStore
    from towpath.flow.accumulate import WindowLimits
    from towpath.flow.delivery import WindowRules
    from towpath.ledger.open_windows import Found
    from towpath.ledger.windows import SealedWindow

log = structlog.get_logger()

#: A batch that has been in the ledger for this long is taken from there: its message is late, or will not come.
_LATE_SECONDS = 2.0
#: How often an idle process looks for such batches.
_LOOK_EVERY_SECONDS = 1.0

#: The thread of the spare writer.
_SPARE = "window-writer-spare"

#: The first and the longest pause of a writer between windows while the store takes none, in seconds.
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class _Member:
    """A batch that will be part of a window."""

    #: What the message says about it. The ledger knows better, if it can be asked.
    batch: UnsealedBatch
    #: True if it was found in the ledger, and no message has brought it.
    is_late: bool = False
    #: Set once its message may be acked.
    is_released: threading.Event = field(default_factory=threading.Event)


class Aggregator:
    """Combines batches into windows and delivers them in its own threads, from `start` to `close`.

    Safe to use from any number of threads.
    """

    def __init__(self, store: EventStore, rules: WindowRules, *, limits: WindowLimits, writers: int) -> None:
        self._store = store
        self._rules = rules
        self._arrived: list[_Member] = []
        #: By `is_backlog`: what waits for a window, and how many writers work at one.
        self._lanes: dict[bool, Accumulator[_Member]] = {False: Accumulator(limits), True: Accumulator(limits)}
        self._busy = {False: 0, True: 0}
        # A process that has just started waits for its messages first.
        self._look_at = time.monotonic() + _LATE_SECONDS
        self._changed = threading.Condition()
        self._is_stopping = threading.Event()
        self._is_closed = False
        self._most_at_a_lane = writers
        names = [*(f"window-writer-{n}" for n in range(writers)), _SPARE]
        self._writers = [threading.Thread(target=self._write_windows, name=name, daemon=True) for name in names]

    def start(self) -> None:
        """Start the writers."""
        for writer in self._writers:
            writer.start()

    @property
    def writers(self) -> Sequence[threading.Thread]:
        """The threads that write windows. If one of them ends, this process delivers less, or nothing."""
        return self._writers

    def submit(self, batch_id: int, *, rows: int, payload_bytes: int, is_backlog: bool) -> None:
        """Return once the batch is sealed into a window, was sealed before, or is not in the ledger."""
        member = _Member(UnsealedBatch(batch_id, rows, payload_bytes, is_backlog))
        with self._changed:
            self._arrived.append(member)
            # All of them, because a single one may be the spare writer, which has nothing to do now.
            self._changed.notify_all()
        member.is_released.wait()

    def stop_lingering(self) -> None:
        """From now on, close windows without waiting for more batches: the process is shutting down."""
        self._is_stopping.set()
        with self._changed:
            self._changed.notify_all()

    def close(self, *, timeout_seconds: float) -> bool:
        """Deliver what waits, and end the writers. True if all was done in time; otherwise other processes recover the
        rest."""
        self.stop_lingering()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout_seconds
        for writer in self._writers:
            writer.join(max(0.0, deadline - time.monotonic()))
        return not any(writer.is_alive() for writer in self._writers)

    def _write_windows(self) -> None:
        failures = 0
        is_spare = threading.current_thread().name == _SPARE
        while members := self._next_window(is_spare=is_spare):
            with heartbeat.progress("window writer"):
                delivery = self._seal_and_deliver(members)
            failures = failures + 1 if delivery in {Delivery.POSTPONED, Delivery.FAILED} else 0
            if failures:
                # The store takes no windows now. Sealing more of them at full speed would not help.
                self._pause(failures)
            if failures or delivery is Delivery.REFUSED:
                while not (self._is_stopping.is_set() or self._has_room()):
                    self._pause(max(1, failures))
            with self._changed:
                self._busy[members[0].batch.is_backlog] -= 1
        connection.close()

    def _next_window(self, *, is_spare: bool) -> list[_Member]:
        """The members of the next window, when it is due. Empty when the aggregator is closed."""
        while True:
            with self._changed:
                lanes = self._lanes_left_out() if is_spare else (False, True)
                if not lanes and not self._is_closed:
                    self._changed.wait()
                    continue
                arrived, self._arrived = self._arrived, []
                now = time.monotonic()
                lane, due_in_seconds = self._first_due(lanes, now)
                is_look_due = due_in_seconds is None and not (self._is_closed or is_spare) and now >= self._look_at
                if is_look_due:
                    self._look_at = now + _LOOK_EVERY_SECONDS
                if not arrived and not is_look_due:
                    if due_in_seconds is None:
                        if self._is_closed:
                            return []
                        self._changed.wait(None if is_spare else max(0.0, self._look_at - now))
                    elif due_in_seconds <= 0 or self._is_stopping.is_set():
                        return self._take(lane, now, is_due=due_in_seconds <= 0)
                    else:
                        self._changed.wait(due_in_seconds)
                    continue
            self._admit(arrived, with_late=is_look_due)

    def _lanes_left_out(self) -> tuple[bool, ...]:
        """Return the lane, if any, that no writer can serve because all work for the other."""
        return tuple(lane for lane in (False, True) if self._busy[not lane] >= self._most_at_a_lane)

    def _first_due(self, lanes: Sequence[bool], now: float) -> tuple[bool, float | None]:
        """Return the lane whose window is due first (fresh before backlog), and in how many seconds; None if nothing
        waits."""
        due = {lane: seconds for lane in lanes if (seconds := self._lanes[lane].seconds_until_due(now)) is not None}
        first = min(due, key=due.__getitem__, default=False)
        return first, due.get(first)

    def _take(self, lane: bool, now: float, *, is_due: bool) -> list[_Member]:  # noqa: FBT001 - a key of both maps
        window = self._lanes[lane].take(now)
        self._busy[lane] += 1
        # If this was the last free writer, the other lane belongs to the spare one.
        self._changed.notify_all()
        metrics.windows.labels(window.reason if is_due else "shutdown").inc()
        metrics.stage_seconds.labels("accumulate").observe(window.waited_seconds)
        return window.batches

    def _admit(self, arrived: list[_Member], *, with_late: bool) -> None:
        """Let the batches that the ledger has wait for a window, and release the others."""
        try:
            with heartbeat.progress("window writer"):
                found = unsealed(
                    [member.batch.id for member in arrived],
                    # During an update, a newer dispatcher may know more outboxes: their batches wait for an aggregator
                    # that knows them.
                    outboxes=[*all_outboxes()],
                    late_seconds=_LATE_SECONDS if with_late else None,
                )
        except Exception as error:  # noqa: BLE001 - a writer that ended with it would be missing from then on
            connection.close()
            if arrived:
                log.warning("ledger_not_read", batches=len(arrived), error=described(error))
            # Nothing is known about them. The seal waits for PostgreSQL, and then takes those that exist.
            found = {member.batch.id: member.batch for member in arrived}
        unknown = [member for member in arrived if member.batch.id not in found]
        known = [replace(member, batch=found[member.batch.id]) for member in arrived if member.batch.id in found]
        late = [_Member(found[id_], is_late=True) for id_ in found.keys() - {member.batch.id for member in arrived}]
        with self._changed:
            for member in (*known, *late):
                lane, batch = self._lanes[member.batch.is_backlog], member.batch
                lane.add(member, rows=batch.rows, payload_bytes=batch.payload_bytes, now=time.monotonic())
            self._changed.notify_all()
        self._release(unknown)
        if unknown:
            # Already sealed, as when a message comes twice; or not ours.
            report.rejected("batch", queue="aggregate*", count=len(unknown))
        if late:
            log.warning("messages_late", batches=len(late), action="sealed from the ledger")

    def _seal_and_deliver(self, members: list[_Member]) -> Delivery | None:
        try:
            batch_ids = [member.batch.id for member in members]
            window = self._seal(batch_ids, is_late=all(member.is_late for member in members))
            failpoints.reach("sealed")
            self._release(members)
            return None if window is None else deliver(window, self._store, self._rules)
        except Exception:  # whatever it is: a writer that ended with it would be missing from then on
            # PostgreSQL is away, or the program is at fault. Nothing is lost: what is sealed is in the ledger, and is
            # recovered when its lease ends; so are batches that are not sealed.
            log.exception("window_delivery_failed", batches=[member.batch.id for member in members])
            connection.close()
            return Delivery.FAILED
        finally:
            self._release(members)

    @staticmethod
    def _release(members: list[_Member]) -> None:
        for member in members:
            member.is_released.set()

    def _seal(self, batch_ids: list[int], *, is_late: bool) -> SealedWindow | None:
        """Seal, and wait for PostgreSQL for as long as it takes: until then, RabbitMQ keeps the messages."""
        found: Found = "ledger" if is_late else "message"
        failures = 0
        while True:
            started = time.monotonic()
            try:
                window = seal(batch_ids, lease_seconds=self._rules.lease_seconds, found=found)
            except (DatabaseError, InterfaceError) as error:
                heartbeat.step()
                connection.close()
                failures += 1
                log.warning("seal_failed", batches=len(batch_ids), failures=failures, error=str(error))
                if self._is_stopping.is_set():
                    return None  # the batches stay unsealed in the ledger, where recovery finds them
                self._pause(failures)
                continue
            if window is not None:
                context = log.bind(window=str(window.id), rows=window.row_count)
                report.stage_done("seal", since=started, context=context, batches=len(batch_ids))
            return window

    def _pause(self, failures: int) -> None:
        self._is_stopping.wait(pause_seconds(failures, first=_FIRST_PAUSE_SECONDS, longest=_LONGEST_PAUSE_SECONDS))

    def _has_room(self) -> bool:
        try:
            return has_room(max_open_windows=self._rules.max_open_windows)
        except (DatabaseError, InterfaceError):
            connection.close()
            return True  # the seal waits until PostgreSQL is there
