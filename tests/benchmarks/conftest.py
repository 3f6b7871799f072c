"""The counts are tested on the test run's own services, everything empty, like the integration tests."""

from __future__ import annotations

from tests.integration.conftest import django_db_setup, event_log, everything_empty, store

__all__ = ["django_db_setup", "event_log", "everything_empty", "store"]
