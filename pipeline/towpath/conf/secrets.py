"""The secrets of the settings, which no log line, error or command output may show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings

from towpath.conf.config import knobs
from towpath.conf.current import config
from towpath.telemetry.secrets import hide, is_name_of_secret


def hide_secrets(**_changed: object) -> None:
    """Hide the secrets that the settings have now. It also receives the signal that a setting has changed, as in a
    test."""
    # `manage.py check` says what is not a text.
    hide(str(secret) for secret in _secrets() if secret)


def _secrets() -> Iterator[str]:
    for name in ("SECRET_KEY", "DATABASE_URL"):
        yield str(getattr(settings, name, "") or "")
    if hasattr(settings, "TOWPATH"):  # a test may have taken it away
        yield from (str(getattr(config(), knob.name)) for knob in knobs() if knob.is_secret)
    yield from map(str, getattr(settings, "SECRET_KEY_FALLBACKS", ()))
    for database in getattr(settings, "DATABASES", {}).values():
        yield from _in_options(database)
    yield from _in_options(getattr(settings, "DRAMATIQ_BROKER", {}).get("OPTIONS", {}))


def _in_options(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, dict):
            yield from _in_options(value)
        elif isinstance(value, str) and (is_name_of_secret(name) or "://" in value):
            yield value
