"""Accumulate: batches wait here until they make a window, in the order in which they came. Pure: no I/O, no thread.

Nothing here is the only copy of anything: if the power fails, RabbitMQ delivers the messages again, or `recover` finds
the batches unsealed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLimits:
    """When a window closes: at `rows` rows, at `payload_bytes` bytes, or `linger_seconds` after its first batch.

    If no writer is free to take it then, it keeps growing, up to `max_rows`, the way a database groups commits.
    """

    rows: int
    max_rows: int
    payload_bytes: int
    linger_seconds: float


@dataclass(frozen=True, slots=True)
class ClosedWindow(Generic[T]):
    """The batches of one window, the limit that closed it, and how many seconds its first batch has waited."""

    batches: list[T]
    reason: Literal["rows", "bytes", "linger"]
    waited_seconds: float


@dataclass(frozen=True, slots=True)
class _Arrival(Generic[T]):
    batch: T
    rows: int
    payload_bytes: int
    at: float


class Accumulator(Generic[T]):
    """A queue of batches that is taken from a window at a time. Times are seconds on the caller's monotonic clock."""

    def __init__(self, limits: WindowLimits) -> None:
        self._limits = limits
        self._waiting: deque[_Arrival[T]] = deque()
        self._rows = 0
        self._payload_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, batch: T, *, rows: int, payload_bytes: int, now: float) -> None:
        self._waiting.append(_Arrival(batch, rows, payload_bytes, now))
        self._rows += rows
        self._payload_bytes += payload_bytes

    def seconds_until_due(self, now: float) -> float | None:
        """Return how many seconds until a window must be taken: 0 if now, None if nothing waits."""
        if not self._waiting:
            return None
        if self._limit_reached() is not None:
            return 0.0
        # The time starts at the window's first batch, so one that comes after a quiet spell gets the whole linger.
        return max(0.0, self._waiting[0].at + self._limits.linger_seconds - now)

    def take(self, now: float) -> ClosedWindow[T]:
        """Take one window, due or not: as many of the oldest batches as its limits allow, and at least one.

        Raises IndexError when nothing waits.
        """
        reason = self._limit_reached() or "linger"
        waited_seconds = now - self._waiting[0].at
        taken: list[T] = []
        rows = payload_bytes = 0
        while self._waiting:
            first = self._waiting[0]
            fits = (
                rows + first.rows <= self._limits.max_rows
                and payload_bytes + first.payload_bytes <= self._limits.payload_bytes
            )
            if taken and not fits:
                break
            rows += first.rows
            payload_bytes += first.payload_bytes
            taken.append(self._waiting.popleft().batch)
        self._rows -= rows
        self._payload_bytes -= payload_bytes
        return ClosedWindow(taken, reason, waited_seconds)

    def _limit_reached(self) -> Literal["rows", "bytes"] | None:
        if self._rows >= self._limits.rows:
            return "rows"
        return "bytes" if self._payload_bytes >= self._limits.payload_bytes else None
