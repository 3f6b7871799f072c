"""Logs: structlog for everything, one line per event, including what the libraries say through `logging`.

Payloads and secrets do not get into them: PostgreSQL's errors are logged without the row that they quote, tracebacks
without local variables, and a password of the environment is blanked out wherever it turns up.

A project can use `configure_logging` for all its logs, configure structlog itself, or do nothing: then
`configure_unless_done` applies.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from towpath.telemetry.secrets import blanked, parts, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterable

#: In an error of PostgreSQL, what follows these quotes values: of the row, the key, the line of a COPY, the statement.
_QUOTED_VALUES = re.compile(r"^(DETAIL|CONTEXT|LINE \d+):.*$", re.MULTILINE)


def configure_logging(*, json: bool, level: str, secrets: Iterable[str] = ()) -> None:
    """Send all logs to stderr, as JSON lines or in colours for a person at a terminal, without the secrets: each is one
    itself, or a URL with a password."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _without_unknown,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Never the tracebacks of `rich`, which show the local variables.
        structlog.processors.format_exc_info,
        without_quoted_values,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping().get(level.upper(), 20)),
        cache_logger_on_first_use=True,
    )
    handler = _ToStderr()
    # periodiq sets the root logger's level itself.
    handler.setLevel(level.upper())
    handler.setFormatter(
        _WithoutSecrets(
            secrets=secrets,
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # pika reports each step of a connection attempt; dramatiq reports the outcome.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    # What Python would otherwise write to stderr itself, bypassing all this.
    logging.captureWarnings(capture=True)
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _log_death


def configure_unless_done() -> None:
    """Send structlog's logs to stderr, without local variables and secrets, unless the project has configured it.

    structlog's own default writes to stdout, where the answer of a command belongs, and shows every local variable of a
    traceback, with passwords and payloads in them.
    """
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
            _without_secrets,
        ],
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _without_secrets(_logger: object, _method: str, line: Any) -> str:
    return without_secrets(str(line))


def _without_unknown(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Leaves out bound values that are not known yet, such as the actor of a request that never looked up its user."""
    known = {name: one.__structlog__() if hasattr(one, "__structlog__") else one for name, one in event.items()}
    return {name: one for name, one in known.items() if one is not None or event[name] is None}


def without_quoted_values(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Removes what PostgreSQL quotes in its errors from every text."""
    return {
        name: _QUOTED_VALUES.sub(r"\1: (left out)", value) if isinstance(value, str) and "\n" in value else value
        for name, value in event.items()
    }


def _log_death(died: threading.ExceptHookArgs) -> None:
    if died.exc_type is not SystemExit and died.exc_value is not None:
        name = died.thread.name if died.thread else "unknown"
        structlog.get_logger("threading").error("thread_died", thread=name, exc_info=died.exc_value)


class _ToStderr(logging.StreamHandler[TextIO]):
    """Writes to the current stderr: in a dramatiq worker, that is the pipe in which its master gathers all lines."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _WithoutSecrets(structlog.stdlib.ProcessorFormatter):
    """Blanks secrets in the finished line, whichever field they are in."""

    def __init__(
        self,
        *,
        secrets: Iterable[str],
        foreign_pre_chain: list[structlog.typing.Processor],
        processors: list[structlog.typing.Processor],
    ) -> None:
        super().__init__(foreign_pre_chain=foreign_pre_chain, processors=processors)
        self._secrets = parts(secrets)

    def format(self, record: logging.LogRecord) -> str:
        return blanked(super().format(record), self._secrets)
