"""Publishing: an event becomes a row of an outbox table in the caller's own transaction, and nothing else happens.

This room imports nothing of the others: an application can take it as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.outbox.event import Event

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime


def publish(event: Event, *, at: datetime | None = None) -> None:
    """See `backend.outbox.publishing.publish`."""
    # Late, because Django's models cannot be imported before the app registry is ready, and this package is an app.
    from backend.outbox import publishing  # noqa: PLC0415

    publishing.publish(event, at=at)


def publish_many(events: Iterable[Event | tuple[Event, datetime]], *, at: datetime | None = None) -> None:
    """See `backend.outbox.publishing.publish_many`."""
    from backend.outbox import publishing  # noqa: PLC0415

    publishing.publish_many(events, at=at)


__all__ = ["Event", "publish", "publish_many"]
