"""Errors of the pipeline itself. What the event store can raise is in `backend.eventlog.errors`.

PipelineError
|- WindowTooLarge
|- BrokerUnreachable
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base of the pipeline's errors."""


class LeaseLost(PipelineError):  # noqa: N818
    """Somebody else has taken the window over."""


class WindowTooLarge(PipelineError):  # noqa: N818 - says what is the matter
    """The window's payloads exceed WINDOW_BYTES: it must be split."""


class SchemaRefused(PipelineError):  # noqa: N818
    """The event store refuses so many rows of a window that the table must be at fault, not the rows."""


class BrokerUnreachable(PipelineError):  # noqa: N818
    """RabbitMQ does not answer."""
