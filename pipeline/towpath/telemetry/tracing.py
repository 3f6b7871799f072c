"""Where windows and their stages are traced, once a worker turns tracing on (TRACING).

While it is off, nothing of OpenTelemetry is imported, and nothing is read that only a span would show.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from uuid import UUID


@dataclass(frozen=True, slots=True)
class Origins:
    """A sample of what a window carries: the batches that messages brought, and the `traceparent` of requests."""

    batches: Sequence[int]
    traceparents: Sequence[str]


class Tracer(Protocol):
    """Makes the spans of windows: see the functions of the same names."""

    def of_window(
        self, window: UUID, *, rows: int, attempt: int, origins: Callable[[], Origins]
    ) -> AbstractContextManager[None]: ...

    def add_stage(self, stage: str, *, seconds: float) -> None: ...


_tracer: Tracer | None = None


def begin(tracer: Tracer) -> None:
    """Trace windows with this from now on."""
    global _tracer  # noqa: PLW0603 - a process traces or it does not
    _tracer = tracer


def of_window(window: UUID, *, rows: int, attempt: int, origins: Callable[[], Origins]) -> AbstractContextManager[None]:
    """While inside, the window's span is the current one. `origins` is asked only if the window is traced."""
    if _tracer is None:
        return contextlib.nullcontext()
    return _tracer.of_window(window, rows=rows, attempt=attempt, origins=origins)


def add_stage(stage: str, *, seconds: float) -> None:
    """The current window's span gets a child that ends now."""
    if _tracer is not None:
        _tracer.add_stage(stage, seconds=seconds)
