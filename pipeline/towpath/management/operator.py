"""Who runs a command, and what he does with it that others must be able to see: the event that says so."""

from __future__ import annotations

import os
import pwd

from django.db import transaction

from towpath.events import LogRead
from towpath.outbox.event import Event
from towpath.outbox.publishing import publish


def operator() -> str:
    """The account that runs this: the system's word for it, not that of a variable."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        # A container's account need not have a name.
        return f"uid {os.getuid()}"


def record(event: Event) -> None:
    """Publish an event in a transaction of its own. Whatever it is about must not happen where this raises."""
    with transaction.atomic():
        publish(event)


def record_reading(tool: str, *, rows: int, detail: str = "") -> None:
    """Publish that events are read. Before they are shown: what is not recorded is not shown."""
    record(LogRead(tool=tool, rows=rows, detail=detail, read_by=operator()))
