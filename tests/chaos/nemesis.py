"""The nemesis: breaks one thing after the other. Its whole schedule is made of the seed, before anything starts."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pika
import psutil
import psycopg2

from tests.faults.proxy import Fault, Kind, Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from deploy.local.stack import Stack

#: PGAPPNAME of the pipeline's processes: whose sessions are terminated.
PIPELINE_SESSIONS = "towpath-pipeline"
_QUEUES = (
    "towpath.aggregate",
    "towpath.aggregate_backlog",
    "towpath.dispatch",
    "towpath.aggregate.DQ",
    "towpath.dispatch.DQ",
)
_FIRST_FAULT_SECONDS = 3.0
_PAUSE_SECONDS = (1.0, 5.0)
_WORKERS = ("aggregator-1", "aggregator-2", "dispatcher")


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault: when, what, on whom, for how long."""

    at: float
    kind: str
    target: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.at:.1f}s {self.kind} {self.target}" + (f" for {self.seconds:.1f}s" if self.seconds else "")


#: How often each kind comes, and what it can hit.
_KINDS: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "kill -9": (6, ("aggregator-1", "aggregator-2", "aggregator-1", "aggregator-2", "dispatcher", "scheduler", "web")),
    "kill -9 worker": (4, _WORKERS),
    "kill -9 master": (2, _WORKERS),
    "kill -9 service": (2, ("clickhouse", "rabbitmq")),
    "immediate shutdown": (1, ("postgres",)),
    "SIGSTOP": (4, _WORKERS),
    "SIGTERM": (2, (*_WORKERS, "scheduler")),
    "purge": (2, _QUEUES),
    "delete": (1, _QUEUES),
    "cut": (3, ("postgres", "rabbitmq", "event store", "writers")),
    "lose commit answers": (2, ("writers",)),
    "slow": (2, ("postgres", "rabbitmq", "event store")),
    "black hole": (2, ("postgres", "rabbitmq", "event store")),
    "refuse": (2, ("postgres", "rabbitmq", "event store")),
    "drop answer": (2, ("postgres", "event store")),
    "terminate sessions": (2, ("postgres",)),
}


def plan(seed: int, seconds: float, *, services: Container[str]) -> list[Strike]:
    """What will happen: the same for the same seed, length and services that are there to be killed."""
    dice = random.Random(seed)
    kinds = list(_KINDS)
    weights = [_KINDS[kind][0] for kind in kinds]
    strikes: list[Strike] = []
    at = _FIRST_FAULT_SECONDS
    while at < seconds:
        kind = dice.choices(kinds, weights)[0]
        target = dice.choice(_KINDS[kind][1])
        lasts = dice.uniform(1, 20 if kind == "SIGSTOP" else 8)
        if kind != "kill -9 service" or target in services:
            strikes.append(Strike(at, kind, target, lasts if kind in _LASTING else 0.0))
        at += dice.uniform(*_PAUSE_SECONDS)
    return strikes


#: To the program's first process alone, not to its workers.
_SIGNALS = {"kill -9 master": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "immediate shutdown": signal.SIGQUIT}
_LASTING = {"SIGSTOP", "slow", "black hole", "refuse", "drop answer"}


class Nemesis:
    """Carries out a plan on a stack; `heal` undoes all of it."""

    def __init__(self, stack: Stack, proxies: Mapping[str, Proxy], strikes: list[Strike]) -> None:
        self._stack = stack
        self._proxies = proxies
        self._strikes = strikes
        self._undo: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self.done: Counter[str] = Counter()
        #: Faults that found nothing to hit (it was down already).
        self.missed: Counter[str] = Counter()

    def run(self, *, stopping: threading.Event, say: Callable[[str], None]) -> None:
        """Return when all is done, or stopping. What still lasts is left to `heal`."""
        began = time.monotonic()
        for strike in self._strikes:
            while (left := began + strike.at - time.monotonic()) > 0:
                self._undo_what_is_due()
                if stopping.wait(min(left, 0.2)):
                    return
            self._undo_what_is_due()
            say(f"  fault {strike}")
            name = f"{strike.kind} {strike.target}"
            try:
                self._strike(strike)
            except (psutil.Error, ProcessLookupError, psycopg2.Error, pika.exceptions.AMQPError, OSError) as error:
                self.missed[name] += 1
                say(f"        missed: {type(error).__name__} {error}".rstrip())
            else:
                self.done[name] += 1

    def heal(self) -> None:
        while self._undo:
            heapq.heappop(self._undo)[2]()
        for proxy in self._proxies.values():
            proxy.heal()
            proxy.cut()  # what hung in a fault starts afresh

    def kill(self, name: str) -> None:
        """SIGKILL to a program, master and workers."""
        self._stack.kill(name)

    def _undo_what_is_due(self) -> None:
        while self._undo and self._undo[0][0] <= time.monotonic():
            heapq.heappop(self._undo)[2]()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._undo, (time.monotonic() + seconds, next(self._number), action))

    def _strike(self, strike: Strike) -> None:
        target = strike.target
        match strike.kind:
            case "kill -9" | "kill -9 service":
                self._stack.kill(target)
            case "kill -9 worker":
                self._worker(target).kill()
            case kind if kind in _SIGNALS:
                os.kill(self._pid(target), _SIGNALS[kind])
            case "SIGSTOP":
                process = self._worker(target)
                process.suspend()
                self._later(strike.seconds, lambda: _resume(process))
            case "purge" | "delete":
                self._change_queue(target, is_deleted=strike.kind == "delete")
            case "terminate sessions":
                self._terminate_sessions()
            case "cut":
                self._proxies[target].cut()
            case "lose commit answers":
                # Of the writers themselves: afterwards nobody but the oracle knows what was committed.
                self._proxies[target].fail(Fault(kind=Kind.DROP_ANSWER, marker=b"COMMIT", times=3))
            case _:
                self._fail_network(strike)

    def _fail_network(self, strike: Strike) -> None:
        proxy = self._proxies[strike.target]
        # A busy link carries megabytes per second: this is slow enough to be felt.
        proxy.fail(Fault(kind=Kind(strike.kind), bytes_per_second=30_000))
        self._later(strike.seconds, proxy.heal)

    def _pid(self, name: str) -> int:
        pid = self._stack.pid(name)
        if pid is None:
            raise ProcessLookupError(f"{name} is down")
        return pid

    def _worker(self, name: str) -> psutil.Process:
        """The process that does the work: dramatiq's master forks it, and a helper or two besides."""
        children = psutil.Process(self._pid(name)).children(recursive=True)
        if not children:
            raise ProcessLookupError(f"{name} has no worker yet")
        return max(children, key=lambda child: child.num_threads())

    def _change_queue(self, queue: str, *, is_deleted: bool) -> None:
        if self._stack.rabbitmq is None:
            raise ProcessLookupError("no RabbitMQ of our own")
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(self._stack.rabbitmq.url))) as connection:
            channel = connection.channel()
            if is_deleted:
                channel.queue_delete(queue)
            else:
                channel.queue_purge(queue)

    def _terminate_sessions(self) -> None:
        if self._stack.postgres is None:
            raise ProcessLookupError("no PostgreSQL of our own")
        url = self._stack.postgres.url
        with contextlib.closing(psycopg2.connect(url, connect_timeout=2)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
                [PIPELINE_SESSIONS],
            )


def _resume(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()
