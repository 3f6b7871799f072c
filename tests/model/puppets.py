"""Puppets: threads that run the product's code and stand still at every stop until a test tells them to continue.

A stop is a failpoint of the product or a request to the store. Between two stops exactly one thread runs, so that a
test decides the interleaving and can run it again.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from enum import Enum, auto
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from django.db import connection

if TYPE_CHECKING:
    from collections.abc import Callable

#: A stretch between two stops takes milliseconds: after this long, two puppets wait for each other.
_BLOCKED_AFTER_SECONDS = 20

_running = threading.local()


class Order(Enum):
    """What a puppet is told when it stands still. The faults are those of the request that it is about to send."""

    GO_ON = auto()
    #: The process dies here.
    DIE = auto()
    ROLL_BACK = auto()
    #: The store takes nothing.
    UNAVAILABLE = auto()
    #: The rows are stored, and the answer is lost.
    ANSWER_LOST = auto()
    #: The token is remembered, the rows are lost and so is the answer: the store lost its power before the fsync.
    GHOST = auto()
    #: The first month is stored, the others are not, and the answer is lost.
    FIRST_MONTH_ONLY = auto()
    #: The client gives up, and the request arrives some time later.
    DELAYED = auto()
    #: The rows are stored, and a view that depends on them fails.
    VIEW_FAILS = auto()
    #: Nothing is stored: too many rows together, it says.
    TOO_LARGE = auto()


class _Died(BaseException):
    """Goes past every handler of the product, as SIGKILL does."""


class Puppet:
    """One thread with its own database connection. It does one job at a time."""

    def __init__(self, name: str) -> None:
        self.name: Final = name
        #: Where it stands; None when it has nothing to do.
        self.stop: str | None = None
        #: Numbers the jobs, so that each is somebody else.
        self.job = 0
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._orders: SimpleQueue[Order] = SimpleQueue()
        self._news: SimpleQueue[str | BaseException | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def start(self, job: Callable[[], object]) -> None:
        """Begin a job; returns at its first stop, or at its end."""
        assert self.stop is None
        self.job += 1
        self._jobs.put(job)
        self._wait()

    def tell(self, order: Order) -> None:
        """Continue to the next stop, or to the end."""
        assert self.stop is not None
        self._orders.put(order)
        self._wait()

    def go_on(self, *, stops: int) -> None:
        """Pass that many stops."""
        for _ in range(stops):
            if self.stop is None:
                return
            self.tell(Order.GO_ON)

    def die(self) -> None:
        if self.stop is not None:
            self.tell(Order.DIE)

    def leave(self) -> None:
        """End the thread."""
        self.die()
        self._jobs.put(None)
        self._thread.join(_BLOCKED_AFTER_SECONDS)

    def _wait(self) -> None:
        try:
            news = self._news.get(timeout=_BLOCKED_AFTER_SECONDS)
        except Empty:
            raise AssertionError(f"{self.name}, last at {self.stop}, is blocked") from None
        self.stop = news if isinstance(news, str) else None
        if isinstance(news, BaseException):
            raise news

    def _run(self) -> None:
        _running.puppet = self
        while (job := self._jobs.get()) is not None:
            try:
                with suppress(_Died):
                    job()
            except BaseException as error:  # noqa: BLE001 - raised again in the thread of the test
                self._news.put(error)
            else:
                self._news.put(None)
        connection.close()

    def stand_still(self, stop: str) -> Order:
        self._news.put(stop)
        order = self._orders.get()
        if order is Order.DIE:
            raise _Died
        return order


def stand_still(stop: str) -> Order:
    """Called by the product's code at a stop. Anything that is not a puppet continues."""
    puppet = current_puppet()
    return Order.GO_ON if puppet is None else puppet.stand_still(stop)


def current_puppet() -> Puppet | None:
    return getattr(_running, "puppet", None)
