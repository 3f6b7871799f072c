"""Errors of the pipeline itself. Those of the event store are in `towpath.eventlog.errors`, of publishing in
`towpath.outbox.errors`.

PipelineError
|- LeaseLost
|- WindowTooLarge
|- SchemaRefused
|- NotTaken
|- NotReadable
|- BrokerUnreachable
|- OutboxInUse
|- NoAlarm
|- NotDroppable
|- NotErasable
|- NotBackfillable
|- NotYours
|- NotDone
|- NotPausable

Their names say what has happened. Without a text, an error's is the first sentence of its docstring.
"""

from __future__ import annotations

import re

from django.db import DatabaseError

from towpath.driver import sqlstate
from towpath.telemetry.secrets import without_secrets

#: Longer texts are cut, seconds or payloads later: an error is shown in one line of `status`.
_LONGEST_TEXT = 300


class PipelineError(Exception):
    """Something has gone wrong in the pipeline."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text or " ".join((type(self).__doc__ or "").split()).partition(". ")[0].rstrip("."))


class LeaseLost(PipelineError):
    """Another process has taken over the window."""


class WindowTooLarge(PipelineError):
    """The window is larger than WINDOW_BYTES. It must be split."""


class SchemaRefused(PipelineError):
    """The event store has accepted none of the window's rows, and no other window since. Its table may be at fault."""


class NotTaken(PipelineError):
    """The event store answers a read-back, but does not accept the window. The cause says why."""


class NotReadable(PipelineError):
    """PostgreSQL does not answer a read in time. The text says what was read, and who holds a lock."""


class BrokerUnreachable(PipelineError):
    """RabbitMQ does not answer, or refuses a queue. The text says which, and how to fix it."""


class OutboxInUse(PipelineError):
    """An outbox has events under way, or its name belongs to another class. The text says what to do first."""


class NoAlarm(PipelineError):
    """There is no receipt with this number that the event store contradicts."""


class NotDroppable(PipelineError):
    """A month must not be dropped yet. The text says why, and what to do first."""


class NotErasable(PipelineError):
    """The selected events cannot be erased now. The text says why, and what to do. Nothing was changed."""


class NotBackfillable(PipelineError):
    """Old rows of this model cannot be published. The text says why, and how to fix it."""


class NotYours(PipelineError):
    """The PostgreSQL role of this process may not do this. The text says which role may."""


class NotDone(PipelineError):
    """The requested action was not carried out. The text says why, and what to do."""


class NotPausable(PipelineError):
    """Dispatch cannot be paused or resumed like this. The text says why."""


def described(error: BaseException) -> str:
    """What went wrong, in one line for the ledger and for people. It quotes no value of a row, and no secret."""
    text = str(error).strip()
    first_line = without_secrets(text.splitlines()[0]) if text else ""
    if isinstance(error, ValueError):
        # Whatever could not be converted stands in its text, and may be a payload.
        first_line = ""
    # The class of values that cannot be converted.
    if isinstance(error, DatabaseError) and sqlstate(error).startswith("22"):
        first_line = re.sub(r'".*"', '"..."', first_line)
    return (
        f"{type(error).__name__}: {first_line}"[:_LONGEST_TEXT]
        if first_line
        else f"{type(error).__name__} {_place(error)}"
    )


def _place(error: BaseException) -> str:
    """Where it was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return ""
    code = traceback.tb_frame.f_code
    return f"in {code.co_name} ({code.co_filename.rsplit('/', 1)[-1]}:{traceback.tb_lineno})"
