"""Errors of publishing: raised before any row is written.

OutboxError
|- NotInTransaction
|- WrongDatabase
|- OnlyInserts
|- EventNotStorable
   |- EventTooLarge
"""

from __future__ import annotations

from collections.abc import Iterable

from django.db.transaction import TransactionManagementError


class OutboxError(Exception):
    """Base of the outbox's errors."""


class NotInTransaction(OutboxError, TransactionManagementError):
    """Published outside a transaction: write `with transaction.atomic():` around the change and its publish(), so
    that both are committed together or not at all."""

    def __init__(self, *, others: Iterable[str] = ()) -> None:
        text = " ".join((type(self).__doc__ or "").split())
        if names := ", ".join(map(repr, others)):
            text += f" (The transaction that is open is one of {names}; events are rows of 'default'.)"
        super().__init__(text)


class WrongDatabase(OutboxError, ValueError):
    """A row of an outbox is to be written into another database than `default`, where the pipeline never looks."""


class OnlyInserts(OutboxError):
    """A row of an outbox is to be changed, or made only where there is none: the event would be another, or missing."""


class EventNotStorable(OutboxError, ValueError):
    """The event cannot be stored as it is."""


class EventTooLarge(EventNotStorable):
    """The event's context is larger than EVENT_CONTEXT_MAX_BYTES."""
