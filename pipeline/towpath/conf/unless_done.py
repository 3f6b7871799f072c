"""Logs in a project that has no opinion about structlog: to stderr, without local variables and without secrets.

structlog's own default writes to stdout, where the answer of a command belongs, and shows every local variable of a
traceback, with passwords and payloads in them. A project that configures structlog itself (or uses
`towpath.conf.logs.configure_logging`) has its own way.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

import structlog

from towpath.telemetry.secrets import without_secrets


def configure_unless_done() -> None:
    """Configure structlog, unless somebody has."""
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
            _blank,
        ],
        logger_factory=_to_stderr,
        cache_logger_on_first_use=False,
    )


def _blank(_logger: object, _method: str, line: Any) -> str:  # noqa: ANN401 - what the renderer has made of the event
    return without_secrets(str(line))


def _to_stderr(*_arguments: object) -> structlog.PrintLogger:
    # To what is stderr at that moment: in a worker of dramatiq, the pipe in which its master gathers all lines.
    stream: TextIO = sys.stderr
    return structlog.PrintLogger(stream)
