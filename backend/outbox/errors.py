"""Errors of publishing: raised before any row is written.

OutboxError
|- NotInTransaction
|- EventNotStorable
   |- EventTooLarge
"""

from __future__ import annotations

from django.db.transaction import TransactionManagementError


class OutboxError(Exception):
    """Base of the outbox's errors."""


class NotInTransaction(OutboxError, TransactionManagementError):  # noqa: N818 - says what is the matter
    """Published outside a transaction: write `with transaction.atomic():` around the change and its publish(), so
    that both are committed together or not at all."""

    def __init__(self) -> None:
        super().__init__(" ".join((type(self).__doc__ or "").split()))


class EventNotStorable(OutboxError, ValueError):  # noqa: N818
    """The event cannot be stored as it is."""


class EventTooLarge(EventNotStorable):
    """The event's context is larger than EVENT_CONTEXT_MAX_BYTES."""
