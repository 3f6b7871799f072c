"""The product's own processes, as `deploy.local` starts them, and the clock of a drain.

A drain's clock starts when a dispatcher takes the dispatch shift and stops at the last window's ack, both read from the
one clock of this machine. The rows are committed before, while the benchmark holds the shifts; so the benchmark's own
INSERT is not in it, and everything else is.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import psutil
from django.db import connection

from deploy.local.application import Application

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from deploy.local.process import Process
    from tests.benchmarks.lab import Lab

#: Carried before a clock starts, by the product and by what it is compared with alike.
WARM_UP_EVENTS = 4000

_POLL_SECONDS = 0.1
#: A shift that has lost its token looks once more at most, an interval of the dispatcher's after it has.
_TURN_SECONDS = 1.5
#: A drain that takes no window for so long has failed.
_STALL_SECONDS = 60.0
_MEMORY_SAMPLE_SECONDS = 0.03


class RowsLostError(Exception):
    """The run did not deliver each event once: its time is not a figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """What one drain did."""

    events: int
    seconds: float
    windows: int
    payload_bytes: int

    @property
    def events_per_second(self) -> float:
        return self.events / self.seconds

    @property
    def windows_per_million_events(self) -> float:
        return self.windows * 1e6 / self.events


class Product:
    """Dispatchers, aggregators and, if asked for, the scheduler: running while inside."""

    def __init__(
        self,
        lab: Lab,
        *,
        aggregators: int = 2,
        dispatchers: int = 1,
        has_scheduler: bool = False,
        knobs: Mapping[str, str] | None = None,
    ) -> None:
        self._lab = lab
        application = Application(
            log_folder=lab.stack.log_folder / "product", environment={**lab.environment, **(knobs or {})}
        )
        self._dispatchers = [application.dispatcher() for _ in range(dispatchers)]
        self._aggregators = [application.aggregator(number + 1) for number in range(aggregators)]
        self._schedulers = [application.scheduler()] if has_scheduler else []

    def __enter__(self) -> Self:
        self._lab.purge_queues()
        self.end_shifts()
        try:
            for process in self._processes:
                process.start()
            for process in self._processes:
                process.wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end_shifts()
        for process in self._processes:
            process.request_stop()
        for process in self._processes:
            process.wait_until_stopped()
        self._lab.purge_queues()

    def begin_shifts(self) -> None:
        """Let go of the shifts: those that stand by take them within half a second."""
        with connection.cursor() as cursor:
            cursor.execute("UPDATE pipeline_shift SET token = %s, alive_at = clock_timestamp()", [uuid.UUID(int=0)])

    def end_shifts(self) -> None:
        """Take the shifts from the processes that work at them, and hold them: they leave at their next turn."""
        with connection.cursor() as cursor:
            cursor.execute("UPDATE pipeline_shift SET token = gen_random_uuid(), alive_at = 'infinity'")
            cursor.execute(
                "INSERT INTO pipeline_shift (name, token, taken_at, alive_at)"
                " SELECT name, gen_random_uuid(), now(), 'infinity'"
                " FROM unnest(ARRAY['dispatch', 'recover']) AS asked (name)"
                " WHERE NOT EXISTS (SELECT FROM pipeline_shift AS s WHERE s.name = asked.name)"
            )
        time.sleep(_TURN_SECONDS)

    def warm_up(self) -> None:
        """Connections made, code loaded, statements planned once: what a running system has behind it."""
        from tests.benchmarks.traffic import publish_backlog

        self._lab.clear()
        publish_backlog(WARM_UP_EVENTS)
        self.drain(WARM_UP_EVENTS)

    def drain(self, events: int) -> Drain:
        """Let the product carry the `events` rows that wait, and stop the clock at the last ack.

        Raises RowsLostError when the event store does not hold each of them once.
        """
        self.begin_shifts()
        self.wait_until_acked(events)
        with connection.cursor() as cursor:
            cursor.execute("SELECT extract(epoch FROM taken_at) FROM pipeline_shift WHERE name = 'dispatch'")
            (began,) = cursor.fetchone()
            cursor.execute("SELECT extract(epoch FROM max(acked_at)), count(*), sum(bytes) FROM pipeline_window")
            ended, windows, payload_bytes = cursor.fetchone()
        self.end_shifts()
        self.check_stored(events)
        return Drain(
            events=events, seconds=float(ended - began), windows=int(windows), payload_bytes=int(payload_bytes)
        )

    def wait_until_acked(self, events: int) -> None:
        """Looks at the receipts only: a look at the outbox would read its dead rows, and cost what is measured."""
        last, changed_at = -1, time.monotonic()
        while (acked := _acked_rows()) < events:
            if acked != last:
                last, changed_at = acked, time.monotonic()
            elif time.monotonic() - changed_at > _STALL_SECONDS:
                raise RowsLostError(f"{acked} of {events} events are acked and nothing moves any more")
            time.sleep(_POLL_SECONDS)

    def check_stored(self, events: int) -> None:
        """Raises RowsLostError unless the event store holds that many events, each once."""
        stored, distinct = self._lab.clickhouse.query(
            "SELECT count(), uniqExact(outbox, outbox_id) FROM event_log"
        ).result_rows[0]
        if (stored, distinct) != (events, events):
            raise RowsLostError(f"{events} events published, {stored} rows stored, {distinct} of them different")

    @contextlib.contextmanager
    def watching_memory(self) -> Iterator[list[int]]:
        """Bytes of resident memory over idle at the peak, an entry for each aggregator, filled at the end."""
        trees = [_tree(process) for process in self._aggregators]
        idle = [_resident_bytes(tree) for tree in trees]
        peaks = list(idle)
        is_over = threading.Event()

        def sample() -> None:
            while not is_over.wait(_MEMORY_SAMPLE_SECONDS):
                for n, tree in enumerate(trees):
                    peaks[n] = max(peaks[n], _resident_bytes(tree))

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        over_idle: list[int] = []
        try:
            yield over_idle
        finally:
            is_over.set()
            sampler.join()
            over_idle += [peak - start for peak, start in zip(peaks, idle, strict=True)]

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time that each process has used so far, by its name."""
        return {process.name: cpu_seconds(process) for process in self._processes}

    @property
    def _processes(self) -> list[Process]:
        return [*self._dispatchers, *self._aggregators, *self._schedulers]


def _acked_rows() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(value::int), 0) FROM pipeline_window, jsonb_each_text(rows) WHERE acked_at IS NOT NULL"
        )
        return int(cursor.fetchone()[0])


def cpu_seconds(process: Process) -> float:
    """Processor time of the process and all its descendants so far, ended ones too."""
    seconds = 0.0
    for each in _tree(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            seconds += sum(each.cpu_times()[:4])  # own and ended children's, in user mode and in the kernel
    return seconds


def _tree(process: Process) -> list[psutil.Process]:
    if process.pid is None:
        return []
    root = psutil.Process(process.pid)
    return [root, *root.children(recursive=True)]


def _resident_bytes(tree: list[psutil.Process]) -> int:
    total = 0
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total
