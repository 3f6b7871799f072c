"""Errors of the pipeline itself. What the event store can raise is in `backend.eventlog.errors`.

PipelineError
|- WindowTooLarge
|- BrokerUnreachable
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base of the pipeline's errors."""


class WindowTooLarge(PipelineError):  # noqa: N818 - says what is the matter
    """The window's payloads exceed WINDOW_BYTES: it must be split."""


class BrokerUnreachable(PipelineError):  # noqa: N818
    """RabbitMQ does not answer."""
