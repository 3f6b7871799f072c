"""Errors of the pipeline itself. What the event store can raise is in `towpath.eventlog.errors`.

PipelineError
|- LeaseLost
|- WindowTooLarge
|- SchemaRefused
|- NotTaken
|- BrokerUnreachable
|- OutboxInUse
|- NotReadable
"""

from __future__ import annotations

import re

from django.db import DatabaseError

#: Longer texts are cut, seconds or payloads later: an error is shown in one line of `status`.
_LONGEST_TEXT = 300


class PipelineError(Exception):
    """Base of the pipeline's errors."""


class LeaseLost(PipelineError):  # noqa: N818
    """Somebody else has taken the window over."""


class WindowTooLarge(PipelineError):  # noqa: N818 - says what is the matter
    """The window's payloads exceed WINDOW_BYTES: it must be split."""


class SchemaRefused(PipelineError):  # noqa: N818
    """The event store has taken no row of a window, nor, since then, of another: its table may be at fault."""


class NotTaken(PipelineError):  # noqa: N818
    """The event store answers a read-back, and an insert of the window fails all the same: the cause says how."""


class BrokerUnreachable(PipelineError):  # noqa: N818
    """RabbitMQ does not answer, or refuses a queue: the message says which, and what to do."""


class NotReadable(PipelineError):  # noqa: N818
    """PostgreSQL does not show it in time: the message says what, and who holds a lock."""


class OutboxInUse(PipelineError):  # noqa: N818
    """An outbox has events under way, or its name is another's: the message says what to do first."""


def described(error: BaseException) -> str:
    """What went wrong, in one line for the ledger and for people. It quotes no value of a row."""
    text = str(error).strip()
    first_line = text.splitlines()[0] if text else ""
    if isinstance(error, ValueError):
        # Whatever could not be converted stands in its text, and may be a payload.
        first_line = ""
    if isinstance(error, DatabaseError) and _state(error).startswith("22"):
        first_line = re.sub(r'".*"', '"..."', first_line)
    return (
        f"{type(error).__name__}: {first_line}"[:_LONGEST_TEXT]
        if first_line
        else f"{type(error).__name__} {_place(error)}"
    )


def _state(error: DatabaseError) -> str:
    """PostgreSQL's code of the error; 22 is the class of values that cannot be converted."""
    return getattr(error.__cause__, "pgcode", None) or getattr(error.__cause__, "sqlstate", None) or ""


def _place(error: BaseException) -> str:
    """Where it was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return ""
    code = traceback.tb_frame.f_code
    return f"in {code.co_name} ({code.co_filename.rsplit('/', 1)[-1]}:{traceback.tb_lineno})"


class NoAlarmError(Exception):
    """There is no receipt with this number that the event store contradicts."""
