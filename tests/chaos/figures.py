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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.local.stack import Stack

_POLL_SECONDS = 0.25
_QUEUES = tuple(name + suffix for name in ("aggregate", "dispatch") for suffix in ("", ".DQ", ".XQ"))


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


@dataclass(slots=True)
class Watch:
    """Asks PostgreSQL all the time for the lag, and how long what a killed aggregator held takes to be stored."""

    database_url: str
    worst_lag_seconds: float = 0.0
    recovery_seconds: list[float] = field(default_factory=list)
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

    def open_batches(self) -> list[int]:
        """What is between dispatch and ack; those that a fleet of two holds, when one of them is killed now."""
        return [row[0] for row in _query(self.database_url, "SELECT id FROM pipeline_batch")]

    def time_until_stored(self, batches: Sequence[int], *, seconds: float) -> float | None:
        """How long it takes until none of these batches is left; None if it takes longer than `seconds`."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            sql = "SELECT count(*) FROM pipeline_batch WHERE id = ANY(%s)"
            with contextlib.suppress(psycopg2.Error):
                if not _query(self.database_url, sql, [list(batches)])[0][0]:
                    return time.monotonic() - began
            time.sleep(_POLL_SECONDS)
        return None

    def distribution(self) -> str:
        times = self.recovery_seconds
        if not times:
            return "-"
        return f"p50 {statistics.median(times):.1f} s, max {max(times):.1f} s, n={len(times)}"


def _query(database_url: str, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(database_url, connect_timeout=5)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql, list(parameters))
            return cursor.fetchall()
