"""The outbox application."""

from __future__ import annotations

from django.apps import AppConfig


class OutboxConfig(AppConfig):
    name = "backend.outbox"
    label = "outbox"

    def ready(self) -> None:
        from backend.outbox import checks  # noqa: F401, PLC0415 - registers the system checks
