"""The events of the users application."""

from __future__ import annotations

from backend.outbox import Event


class UserCreated(Event):
    """A user was created."""

    email: str
    first_name: str
    last_name: str
