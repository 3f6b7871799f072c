"""The product's worker processes with a proxy in front of each service, for a module of fault tests."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Self

import psutil

from tests.faults.proxy import Proxy, with_port
from tests.faults.stores import store_of
from tests.integration.workers import QUICK, Workers
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from deploy.local.process import Process
    from tests.services import Services

_DEATH_SECONDS = 30


class Fleet:
    """Starts workers on demand; knows those that run."""

    def __init__(self, services: Services, *, log_folder: Path) -> None:
        self.services = services
        self.postgres = Proxy(services.postgres.port)
        self.rabbitmq = Proxy(services.rabbitmq.amqp_port)
        self.store = Proxy(store_of(services).port)
        self._workers = Workers(services, log_folder=log_folder)
        self._running: list[Process] = []
        self._steady: list[Process] = []
        self._aggregators = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()
        for proxy in self.proxies:
            proxy.close()

    @property
    def proxies(self) -> tuple[Proxy, ...]:
        return (self.postgres, self.rabbitmq, self.store)

    def heal(self) -> None:
        """Every proxy lets everything through."""
        for proxy in self.proxies:
            proxy.heal()

    def steady(self, *, has_aggregator: bool = True) -> None:
        """Have one dispatcher at work, and one aggregator or none; those of the test before, if they still are."""
        dispatchers = [process for process in self._steady if process.name == "dispatcher" and process.is_running]
        aggregators = [process for process in self._steady if process.name != "dispatcher" and process.is_running]
        for process in list(self._running):
            if process not in (*dispatchers[:1], *(aggregators[:1] if has_aggregator else ())):
                self.kill(process)
        self._steady = dispatchers[:1] or [self.dispatcher()]
        if has_aggregator:
            self._steady += aggregators[:1] or [self.aggregator()]
        self.ready(*self._steady)

    def dispatcher(self, **knobs: str) -> Process:
        """A dispatcher at work, not yet ready."""
        return self._remember(self._workers.dispatcher(**self._knobs(knobs)))

    def idle_dispatcher(self, **knobs: str) -> Process:
        """A dispatcher without a tick: it works, or stands by while another one has the shifts."""
        return self._remember(self._workers.idle_dispatcher(**self._knobs(knobs)))

    def aggregator(self, **knobs: str) -> Process:
        self._aggregators += 1
        return self._remember(self._workers.aggregator(self._aggregators, **self._knobs(knobs)))

    def ready(self, *processes: Process) -> None:
        for process in processes:
            process.wait_until_ready()

    def kill_all(self) -> None:
        for process in self._running:
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                thaw(process)
            process.kill()
        self._running.clear()

    def kill(self, process: Process) -> None:
        process.kill()
        self._running.remove(process)

    def release(self, process: Process) -> None:
        """From now on somebody else looks after it."""
        self._running.remove(process)

    def wait_until_dead(self, process: Process) -> None:
        """Return when a process that is about to die by itself has."""
        eventually(lambda: not process.is_running, seconds=_DEATH_SECONDS, what=f"{process.name} has died")
        self.kill(process)

    def _remember(self, process: Process) -> Process:
        self._running.append(process)
        return process

    def _knobs(self, knobs: dict[str, str]) -> dict[str, str]:
        urls = {
            "DATABASE_URL": with_port(os.environ["DATABASE_URL"], self.postgres.port),
            "RABBITMQ_URL": with_port(os.environ["RABBITMQ_URL"], self.rabbitmq.port),
            "EVENT_STORE_URL": with_port(os.environ["EVENT_STORE_URL"], self.store.port),
        }
        return {**QUICK, **urls, **knobs}


def family(process: Process) -> list[psutil.Process]:
    """A running process and its descendants."""
    if process.pid is None or not process.is_running:
        return []
    try:
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def freeze(process: Process) -> None:
    """SIGSTOP to all of it."""
    _signal_all(family(process), signal.SIGSTOP)


def thaw(process: Process) -> None:
    _signal_all(family(process), signal.SIGCONT)


def wait_until_frozen(process: Process, *, seconds: float) -> None:
    """Return when a part of it has stopped itself."""
    eventually(
        lambda: any(_status(part) == psutil.STATUS_STOPPED for part in family(process)),
        seconds=seconds,
        what=f"{process.name} has stopped",
    )


def _status(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return psutil.STATUS_DEAD


def _signal_all(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
