"""The users application: a real application that uses the outbox."""

from __future__ import annotations

from django.apps import AppConfig


class UsersConfig(AppConfig):
    name = "backend.users"
    label = "users"

    def ready(self) -> None:
        from backend.users import signals, throttling  # noqa: F401, PLC0415 - connects the receivers
