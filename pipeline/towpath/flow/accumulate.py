"""Accumulate: batches wait here until they make a window, in the order in which they came. Pure: no I/O, no thread.

Nothing here is the only copy of anything: if the power goes, RabbitMQ delivers the messages again, or `recover` finds
the batches unsealed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """When a window closes: at `rows` rows, at `payload_bytes` bytes, or `linger_seconds` after its first batch.

    Nobody may be free to take it then: it goes on growing, up to `max_rows`, the way a database groups commits.
    """

    rows: int
    payload_bytes: int
    linger_seconds: float
    max_rows: int = 0


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T]):
    batch: T
    rows: int
    payload_bytes: int
    since: float


class Accumulator(Generic[T]):
    """A queue of batches that is taken from a window at a time. Times are seconds on the caller's monotonic clock."""

    def __init__(self, closing: WindowLimits) -> None:
        self._closing = closing
        self._waiting: deque[_Waiting[T]] = deque()
        self._rows = 0
        self._payload_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, batch: T, *, rows: int, payload_bytes: int, now: float) -> None:
        self._waiting.append(_Waiting(batch, rows, payload_bytes, now))
        self._rows += rows
        self._payload_bytes += payload_bytes

    def is_full(self) -> bool:
        """True if a window's worth is waiting."""
        return self._rows >= self._closing.rows or self._payload_bytes >= self._closing.payload_bytes

    def seconds_until_due(self, now: float) -> float | None:
        """How long until a window must be taken: 0 when it must be now, None when nothing waits."""
        if not self._waiting:
            return None
        if self.is_full():
            return 0.0
        # The time starts at the window's first batch: one that came after a quiet spell gets the whole linger.
        return max(0.0, self._waiting[0].since + self._closing.linger_seconds - now)

    def reason_to_close(self) -> Literal["rows", "bytes", "linger"]:
        """Which limit the waiting batches have reached; `linger` when neither of the others."""
        if self._rows >= self._closing.rows:
            return "rows"
        return "bytes" if self._payload_bytes >= self._closing.payload_bytes else "linger"

    def waited_seconds(self, now: float) -> float:
        """For how long the first batch has waited; 0 when none does."""
        return now - self._waiting[0].since if self._waiting else 0.0

    def take(self) -> list[T]:
        """The batches of one window: as many of the oldest as its limits hold, and never none if any is waiting."""
        taken: list[T] = []
        rows = payload_bytes = 0
        while self._waiting:
            first = self._waiting[0]
            fits = (
                rows + first.rows <= max(self._closing.rows, self._closing.max_rows)
                and payload_bytes + first.payload_bytes <= self._closing.payload_bytes
            )
            if taken and not fits:
                break
            rows += first.rows
            payload_bytes += first.payload_bytes
            taken.append(self._waiting.popleft().batch)
        self._rows -= rows
        self._payload_bytes -= payload_bytes
        return taken
