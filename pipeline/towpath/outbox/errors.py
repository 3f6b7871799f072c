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
            text += f" (The open transaction is on {names}, but events are rows of 'default'.)"
        super().__init__(text)


class WrongDatabase(OutboxError, ValueError):
    """An outbox row would be written into another database than `default`, where the pipeline never looks."""


class OnlyInserts(OutboxError):
    """An outbox row would be changed, or created only if it is missing: the event would change, or be lost."""


class EventNotStorable(OutboxError, ValueError):
    """The event cannot be stored as it is."""


class EventTooLarge(EventNotStorable):
    """The event's context is larger than EVENT_CONTEXT_MAX_BYTES."""
