"""The settings of this process, for code that wires the product, `publish` and pages. Other code is given values."""

from __future__ import annotations

from django.conf import settings

from towpath.conf.config import Config


def config() -> Config:
    """The project's setting TOWPATH."""
    current: Config = settings.TOWPATH
    return current


def hash_key() -> str:
    """The key of `Hashed` fields."""
    return config().event_hash_key or settings.SECRET_KEY
