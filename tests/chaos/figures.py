"""What is measured beside the invariants: lag, recovery times, memory, threads, dead tuples, connections, queues."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pika
import psutil
import psycopg2

from towpath.conf.names import QueueNames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.local.stack import Stack

_POLL_SECONDS = 0.25
_QUEUES = tuple(name + suffix for name in QueueNames.of("") for suffix in ("", ".DQ", ".XQ"))


@dataclass(frozen=True, slots=True)
class Resources:
    """What the stack uses at one moment."""

    rss_mib: dict[str, int]
    threads: dict[str, int]
    dead_tuples: int
    connections: int


def resources(stack: Stack, database_url: str) -> Resources:
    rss, threads = {}, {}
    for name in stack.supervisor.names:
        pid = stack.pid(name)
        with contextlib.suppress(psutil.Error):
            family = [] if pid is None else [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            rss[name] = sum(process.memory_info().rss for process in family) // 2**20
            threads[name] = sum(process.num_threads() for process in family)
    return Resources(
        rss,
        threads,
        dead_tuples=int(_query(database_url, "SELECT coalesce(sum(n_dead_tup), 0) FROM pg_stat_user_tables")[0][0]),
        connections=int(_query(database_url, "SELECT count(*) FROM pg_stat_activity WHERE client_port > 0")[0][0]),
    )


def queue_lengths(rabbitmq_url: str) -> dict[str, int]:
    """Messages ready, by queue; -1 where the queue does not exist."""
    lengths = {}
    with closing(pika.BlockingConnection(pika.URLParameters(rabbitmq_url))) as connection:
        for queue in _QUEUES:
            try:
                lengths[queue] = int(connection.channel().queue_declare(queue, passive=True).method.message_count)
            except pika.exceptions.ChannelClosedByBroker:
                lengths[queue] = -1
    return lengths


@dataclass(frozen=True, slots=True)
class InFlight:
    """Batches between dispatch and ack, and those of them that are sealed."""

    batches: tuple[int, ...]
    sealed: tuple[int, ...]


@dataclass(slots=True)
class Watch:
    """Asks PostgreSQL all the time for the lag, and how long what a killed aggregator held takes to be stored."""

    database_url: str
    worst_lag_seconds: float = 0.0
    #: After kill -9 of an aggregator: "sealed" windows and "all" batches.
    recovery_seconds: dict[str, list[float]] = field(default_factory=lambda: {"sealed": [], "all": []})
    recovered: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._stopping.wait(1.0):
            with contextlib.suppress(psycopg2.Error):
                self.worst_lag_seconds = max(self.worst_lag_seconds, self.lag())
                self.recovered = max(self.recovered, self._recovered())

    def stop(self) -> None:
        self._stopping.set()

    def lag(self) -> float:
        """Age of the oldest event in the general outbox."""
        sql = "SELECT coalesce(extract(epoch FROM clock_timestamp() - min(event_date_time)), 0) FROM outbox_event"
        return float(_query(self.database_url, sql)[0][0])

    def _recovered(self) -> int:
        """Windows that took more than one attempt."""
        return int(_query(self.database_url, "SELECT count(*) FROM pipeline_window WHERE attempts > 1")[0][0])

    def in_flight(self) -> InFlight:
        """What is between dispatch and ack now: what aggregators hold that are killed now."""
        batches = _query(self.database_url, "SELECT id, window_id IS NOT NULL FROM pipeline_batch")
        return InFlight(tuple(id_ for id_, _ in batches), tuple(id_ for id_, is_sealed in batches if is_sealed))

    def wait_until_sealed(self, *, seconds: float) -> InFlight:
        """What is between dispatch and ack at a moment at which some of it is in a window."""
        deadline = time.monotonic() + seconds
        while not (held := self.in_flight()).sealed and time.monotonic() < deadline:
            time.sleep(0.005)
        return held

    def wait_until_stored(self, held: InFlight, *, seconds: float) -> bool:
        """Note how long it takes until none of it is left. False if it takes longer than `seconds`."""
        began = time.monotonic()
        left = {"sealed": held.sealed, "all": held.batches}
        while time.monotonic() - began < seconds:
            for kind, batches in list(left.items()):
                sql = "SELECT count(*) FROM pipeline_batch WHERE id = ANY(%s)"
                with contextlib.suppress(psycopg2.Error):
                    if not _query(self.database_url, sql, [list(batches)])[0][0]:
                        del left[kind]
                        if batches:
                            self.recovery_seconds[kind].append(time.monotonic() - began)
            if not left:
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def distribution(self, kind: str) -> str:
        times = self.recovery_seconds[kind]
        if not times:
            return "nothing was held"
        return f"p50 {statistics.median(times):.1f} s, max {max(times):.1f} s, n={len(times)}"


def _query(database_url: str, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(database_url, connect_timeout=5)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql, list(parameters))
            return cursor.fetchall()
