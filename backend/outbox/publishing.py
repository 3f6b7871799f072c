"""Publish: the event is committed with the caller's transaction, or not at all.

If the power goes before the caller's COMMIT, neither the change nor its event has happened; after it, both have.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from django.db import connection
from django.utils import timezone

from backend.outbox.errors import NotInTransaction
from backend.outbox.event import stored_context
from backend.outbox.models import OutboxEvent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backend.outbox.event import Event

#: Rows of one INSERT statement; more of them only make the statement's text larger.
_ROWS_PER_STATEMENT = 1000


def publish(event: Event) -> None:
    """Insert `event` into the general outbox, in the caller's transaction.

    Raises, before any row is written:
      NotInTransaction: outside `transaction.atomic()`, where the event could be committed without what it reports, or
        the other way round.
      EventTooLarge, EventNotStorable: the event's context cannot be stored as it is.
    """
    publish_many([event])


def publish_many(events: Iterable[Event]) -> None:
    """`publish` for any number of events, a thousand to a statement. All are stamped with the time of their chunk."""
    if not connection.in_atomic_block:
        raise NotInTransaction
    rows = (
        OutboxEvent(
            event_type=event.event_type,
            event_date_time=timezone.now(),
            event_context=stored_context(event),
            metadata_version=event.version,
        )
        for event in events
    )
    while chunk := list(itertools.islice(rows, _ROWS_PER_STATEMENT)):
        OutboxEvent.objects.bulk_create(chunk)
