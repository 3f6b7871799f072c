"""The event log application: the One Big Table and the store that holds it."""

from __future__ import annotations

from django.apps import AppConfig


class EventLogConfig(AppConfig):
    name = "backend.eventlog"
    label = "eventlog"
