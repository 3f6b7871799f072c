"""Who runs a command, and the events that record what they do with it."""

from __future__ import annotations

import os
import pwd

from django.db import transaction

from towpath.events import LogRead
from towpath.outbox.event import Event
from towpath.outbox.publishing import publish


def operator() -> str:
    """Return the account that runs this process. It comes from the system, not from an environment variable."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        # An account in a container may have no name.
        return f"uid {os.getuid()}"


def record(event: Event) -> None:
    """Publish an event in its own transaction. If this raises, there is no record of what the event is about."""
    with transaction.atomic():
        publish(event)


def record_reading(tool: str, *, rows: int, detail: str = "") -> None:
    """Publish that events are read. Call this before showing them: without a record, nothing may be shown."""
    record(LogRead(tool=tool, rows=rows, detail=detail, read_by=operator()))
