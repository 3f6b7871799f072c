"""What the settings of a project must have for the pipeline to work in it, and what to do where they have not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - Django's name
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.utils.module_loading import import_string

from backend.eventlog import store

#: Every setting that the product reads beside Django's own.
SETTINGS = (
    *("BATCH_IDS", "DISPATCH_INTERVAL_SECONDS", "DRAMATIQ_BROKER", "ENVIRONMENT", "EVENT_CONTEXT_MAX_BYTES"),
    *("EVENT_HASH_KEY", "EVENT_STORE_URL", "FAILPOINTS", "HEARTBEAT_DIR", "LEASE_SECONDS", "MAX_OPEN_WINDOWS"),
    *("METRICS_PORT", "RECEIPT_DAYS", "SHUTDOWN_SECONDS", "STORE_TIMEOUT_SECONDS", "TRACING", "UNSEALED_SECONDS"),
    *("WEDGED_SECONDS", "WINDOW_BYTES", "WINDOW_LINGER_SECONDS", "WINDOW_MAX_ROWS", "WINDOW_ROWS", "WINDOW_WRITERS"),
)

_APPS = ("backend.outbox", "backend.eventlog", "django_dramatiq")

_MIDDLEWARE = {
    "periodiq.PeriodiqMiddleware": "the scheduler cannot start shifts",
    "dramatiq.middleware.retries.Retries": "a shift that fails is not started again",
    "django_dramatiq.middleware.DbConnectionsMiddleware": "broken database connections are kept",
    "pipeline.lifecycle.PipelineLifecycle": "a worker that is told to stop drops its windows",
}
_TIME_LIMIT = "dramatiq.middleware.time_limit.TimeLimit"


def require_settings() -> None:
    """Raise ImproperlyConfigured, with what to write, unless every setting is there."""
    if missing := [name for name in SETTINGS if not hasattr(settings, name)]:
        raise ImproperlyConfigured(
            f"The settings have no {', '.join(missing)}: write `from backend.config.towpath import *` at their top."
        )


def check_settings(**_: object) -> Sequence[CheckMessage]:
    """Django's system check: `manage.py check`, and before every `migrate`."""
    return [*_database(), *_installed_apps(), *_broker(), *_event_store()]


def _database() -> Iterator[CheckMessage]:
    if connection.vendor != "postgresql":
        yield Error(
            f"The default database is {connection.vendor}, but outboxes and ledger need PostgreSQL.",
            hint="Use PostgreSQL 13 or later for the project's default database.",
            id="pipeline.E001",
        )
        return
    from django.db.backends.postgresql.psycopg_any import is_psycopg3  # noqa: PLC0415 - needs a driver to be there

    if is_psycopg3:
        yield Error(
            "Django uses psycopg 3 here, but windows are loaded with psycopg2's COPY.",
            hint="Django takes psycopg2 when psycopg is not installed: pip uninstall psycopg",
            id="pipeline.E002",
        )


def _installed_apps() -> Iterator[CheckMessage]:
    for name in _APPS:
        if not apps.is_installed(name):
            yield Error(f"{name} is not in INSTALLED_APPS.", hint="Add it.", id="pipeline.E003")


def _broker() -> Iterator[CheckMessage]:
    found = {_path(one) for one in settings.DRAMATIQ_BROKER.get("MIDDLEWARE", [])}
    hint = "Take DRAMATIQ_BROKER from backend.config.towpath, and append what is yours to its MIDDLEWARE."
    for path, without in _MIDDLEWARE.items():
        if path not in found:
            yield Error(f"DRAMATIQ_BROKER has no {path}: {without}.", hint=hint, id="pipeline.E004")
    if _TIME_LIMIT in found:
        yield Warning(
            "DRAMATIQ_BROKER has dramatiq's TimeLimit, which raises in the middle of transactions.",
            hint="Leave it out: the pipeline's own actors run as long as they must.",
            id="pipeline.W001",
        )


def _event_store() -> Iterator[CheckMessage]:
    """Of a project that sets it after `from backend.config.towpath import *`, which checks the environment's."""
    try:
        store.checked(settings.EVENT_STORE_URL)
    except ImproperlyConfigured as error:
        yield Error(f"EVENT_STORE_URL: {error}", hint="See docs/stores.md.", id="pipeline.E020")


def _path(middleware: Any) -> str:  # noqa: ANN401 - what the setting may hold: an import path, a class, an instance
    """Where the class is defined, whatever module it is imported from."""
    if isinstance(middleware, str):
        middleware = import_string(middleware)
    kind = middleware if isinstance(middleware, type) else type(middleware)
    return f"{kind.__module__}.{kind.__qualname__}"
