"""Something that may hang, asked by threads that must not: each gets an answer in time, or learns that there is none.

Only one look runs at a time, in its own thread, however many ask. Those who ask while it runs share its answer. Those
who ask after it has taken too long are told so immediately. An answer can be kept for some seconds.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from django.db import connection, connections

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class NoAnswerYet(Exception):
    """The look takes longer than its limit."""


def _is_in_a_test() -> bool:
    """True if this thread's connection is already in a transaction, which another thread could not see, or if its
    queries are recorded. Only tests ask like this."""
    return connection.in_atomic_block or connection.force_debug_cursor


class _Look(Generic[T]):
    def __init__(self, look: Callable[[], T]) -> None:
        self.began_at = time.monotonic()
        self.ended_at = float("inf")
        self.is_over = threading.Event()
        self._look = look
        self._answer: T | None = None
        self._error: Exception | None = None
        threading.Thread(target=self._run, name="look", daemon=True).start()

    def _run(self) -> None:
        try:
            self._answer = self._look()
        except Exception as error:  # noqa: BLE001 - raised where it is asked for
            self._error = error
        finally:
            connections.close_all()
            self.ended_at = time.monotonic()
            self.is_over.set()

    def answer(self) -> T:
        if self._error is not None:
            raise self._error
        return self._answer  # type: ignore[return-value]  # it is over, and has not failed


class Within(Generic[T]):
    """Wraps `look`: its answer is due within `seconds`, and is reused for `fresh_seconds`, whether good or bad."""

    def __init__(self, look: Callable[[], T], *, seconds: float, fresh_seconds: float = 0.0) -> None:
        self.look = look
        self._seconds = seconds
        self._fresh_seconds = fresh_seconds
        self._changing = threading.Lock()
        self._current: _Look[T] | None = None

    def answer(self, *, at_most: float = float("inf")) -> T:
        """Return or raise what `look` does. Raises NoAnswerYet if it takes too long, or longer than `at_most` seconds
        from now on."""
        if _is_in_a_test():
            return self.look()
        now = time.monotonic()
        with self._changing:
            look = self._current
            if look is None or (look.is_over.is_set() and now - look.ended_at >= self._fresh_seconds):
                look = self._current = _Look(self.look)
        if not look.is_over.wait(max(0.0, min(look.began_at + self._seconds - now, at_most))):
            raise NoAnswerYet
        return look.answer()
