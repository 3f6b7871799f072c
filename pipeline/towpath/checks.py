"""Checks of a project's settings: what the pipeline needs there, and what to do if it is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Warning  # noqa: A004 - Django's name
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, OperationalError, connection, models, router
from django.utils.module_loading import import_string, module_has_submodule
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from towpath.conf.config import knobs
from towpath.conf.current import config
from towpath.conf.production import forgotten_services
from towpath.eventlog.connect import require_known, with_own_server
from towpath.ledger import database_errors
from towpath.rabbitmq.broker import Broker
from towpath.watch.connections import most_of_a_process

#: The settings that `from towpath.conf.settings import *` brings.
_SETTINGS = ("TOWPATH", "DRAMATIQ_BROKER")

_APPS = ("towpath", "django_dramatiq")

_MIDDLEWARE = {
    "periodiq.PeriodiqMiddleware": "the scheduler cannot start shifts",
    "dramatiq.middleware.retries.Retries": "a message of a failed actor is lost",
    "django_dramatiq.middleware.DbConnectionsMiddleware": "broken database connections are kept",
    "towpath.lifecycle.PipelineLifecycle": "a worker that is told to stop drops its windows",
}
_TIME_LIMIT = "dramatiq.middleware.time_limit.TimeLimit"


def require_settings() -> None:
    """Raise ImproperlyConfigured, which says what to write, unless every setting is there."""
    if missing := [name for name in _SETTINGS if not hasattr(settings, name)]:
        raise ImproperlyConfigured(
            f"The settings lack {', '.join(missing)}: write `from towpath.conf.settings import *` at their top."
        )


def check_settings(**_: object) -> Sequence[CheckMessage]:
    """Django's system check: `manage.py check`, and before every `migrate`."""
    return [
        *_database(),
        *_database_settings(),
        *_installed_apps(),
        *_tenants(),
        *_broker(),
        *_actors(),
        *_config(),
    ]


def check_production(**_: object) -> Sequence[CheckMessage]:
    """With `check --deploy`: what production needs, but is left to the local stack."""
    found: list[CheckMessage] = [
        Error(
            f"{variable} is not set, so it would be {address}, the address of the local stack. The web process and"
            " workers do not start.",
            hint=f"Set {variable} in the environment of every process. See docs/settings.md.",
            id="pipeline.E021",
        )
        for variable, address in forgotten_services()
    ]
    (environment,) = (knob for knob in knobs() if knob.name == "environment")
    if config().environment == environment.default:
        variable = config().variable_prefix + environment.variable
        found.append(
            Warning(
                f"{variable} is not set: every event is stored with the environment {environment.default!r}.",
                hint=f"Set {variable}, for example to `production`.",
                id="pipeline.W004",
            )
        )
    return found


def check_database(*, databases: Sequence[str] | None = None, **_: object) -> Sequence[CheckMessage]:
    """Checks that only the server can answer: before every `migrate`, with `check --database default`, and from Django
    6.1 on with every `check`. Without a server, as in the build of an image, it says so and does not fail."""
    from towpath.watch.database import problems_of_database  # noqa: PLC0415 - needs the models

    if DEFAULT_DB_ALIAS not in (databases or ()) or connection.vendor != "postgresql":
        return []
    try:
        return [Error(text, hint=hint, id="pipeline.E009") for text, hint in problems_of_database(connection)]
    except OperationalError as error:
        if not database_errors.is_outage(error):
            raise
        return [
            Info(
                "The database was not checked: PostgreSQL does not answer.",
                hint="Run `python manage.py check --database default` where PostgreSQL answers.",
                id="pipeline.I001",
            )
        ]


def _database() -> Iterator[CheckMessage]:
    if connection.vendor != "postgresql":
        yield Error(
            f"The default database is {connection.vendor}, but outboxes and ledger need PostgreSQL.",
            hint="Use PostgreSQL 13 or later for the project's default database.",
            id="pipeline.E001",
        )
        return
    pool = connection.settings_dict["OPTIONS"].get("pool")
    if not pool:
        return
    options = pool if isinstance(pool, dict) else {}
    # psycopg_pool's own defaults: of `min_size`, and of a `max_size` that is not given.
    most = options.get("max_size") or options.get("min_size", 4)
    needed = most_of_a_process(writers=config().window_writers)
    if most < needed:
        yield Warning(
            f"DATABASES['default'] has a pool of {most} connections, but an aggregator uses up to {needed} at a time."
            " Threads that find none free wait, then fail.",
            hint=f'Set OPTIONS["pool"] = {{"max_size": {needed}}} or more: WINDOW_WRITERS plus 2.',
            id="pipeline.W003",
        )


def _database_settings() -> Iterator[CheckMessage]:
    if not settings.USE_TZ:
        yield Error(
            "USE_TZ is False: Django's times then have no time zone, and one hour of each autumn occurs twice.",
            hint="Set USE_TZ = True. TIME_ZONE may be any zone.",
            id="pipeline.E005",
        )
    if not connection.settings_dict["AUTOCOMMIT"]:
        yield Error(
            "DATABASES['default'] has AUTOCOMMIT = False: the pipeline's connections would keep transactions open.",
            hint="Remove AUTOCOMMIT from it, and use transaction.atomic() where changes belong together.",
            id="pipeline.E006",
        )
    elsewhere = [
        model._meta.label
        for model in apps.get_models()
        if (model._meta.app_label == "towpath" or _is_outbox(model))
        and not router.allow_migrate_model(DEFAULT_DB_ALIAS, model)
    ]
    if elsewhere:
        yield Error(
            f"A database router keeps `migrate` from creating tables in 'default' for {', '.join(elsewhere)}.",
            hint="Let allow_migrate() return True for them and the database 'default'.",
            id="pipeline.E007",
        )


def _is_outbox(model: type[models.Model]) -> bool:
    from towpath.outbox.models import Outbox  # noqa: PLC0415 - a model, and this module is imported before those

    return issubclass(model, Outbox)


def _tenants() -> Iterator[CheckMessage]:
    """With django-tenants, each tenant has its own schema; the pipeline looks into the shared one."""
    kinds = getattr(settings, "TENANT_TYPES", {})
    public = getattr(settings, "PUBLIC_SCHEMA_NAME", "public")
    listed = [*getattr(settings, "TENANT_APPS", ())]
    listed += [app for name, kind in kinds.items() if name != public for app in kind.get("APPS", ())]
    in_tenants = {AppConfig.create(app).name for app in listed}
    ours = {model._meta.app_config.name for model in apps.get_models() if _is_outbox(model)}
    if found := sorted(in_tenants & (ours | set(_APPS[:1]))):
        yield Error(
            f"{', '.join(found)} in TENANT_APPS: events in a tenant's schema would never be delivered.",
            hint="List apps with outboxes, and towpath, in SHARED_APPS only.",
            id="pipeline.E008",
        )


def _installed_apps() -> Iterator[CheckMessage]:
    for name in _APPS:
        if not apps.is_installed(name):
            yield Error(f"{name} is not in INSTALLED_APPS.", hint="Add it.", id="pipeline.E003")


def _broker() -> Iterator[CheckMessage]:
    found = {_path(one) for one in settings.DRAMATIQ_BROKER.get("MIDDLEWARE", [])}
    hint = "Import DRAMATIQ_BROKER from towpath.conf.settings, and append your own middleware to its MIDDLEWARE."
    for path, without in _MIDDLEWARE.items():
        if path not in found:
            yield Error(f"DRAMATIQ_BROKER has no {path}: {without}.", hint=hint, id="pipeline.E004")
    broker = import_string(settings.DRAMATIQ_BROKER["BROKER"])
    if issubclass(broker, RabbitmqBroker) and not issubclass(broker, Broker):
        yield Warning(
            "DRAMATIQ_BROKER acts on every message in the pipeline's queues: anyone who may publish there can stop"
            " workers.",
            hint='Set its BROKER to "towpath.rabbitmq.broker.Broker", which checks what arrives, or to a subclass.',
            id="pipeline.W002",
        )
    if settings.DRAMATIQ_BROKER.get("OPTIONS", {}).get("queue_prefix", "") != config().queue_prefix:
        yield Error(
            f"DRAMATIQ_BROKER was made before TOWPATH had the queue_prefix {config().queue_prefix!r}.",
            hint="Make it again: DRAMATIQ_BROKER = towpath.conf.dramatiq.broker(TOWPATH).",
            id="pipeline.E011",
        )
    if _TIME_LIMIT in found:
        yield Warning(
            "DRAMATIQ_BROKER has dramatiq's TimeLimit, which raises in the middle of transactions.",
            hint="Remove it: the pipeline's own actors run as long as they need to.",
            id="pipeline.W001",
        )


def _actors() -> Iterator[CheckMessage]:
    """All apps share the names of actors and queues. A clash shows only where both are imported."""
    for app in apps.get_app_configs():
        for name in getattr(settings, "DRAMATIQ_AUTODISCOVER_MODULES", ("tasks",)):
            if not module_has_submodule(app.module, name):
                continue
            try:
                import_module(f"{app.name}.{name}")
            except ValueError as error:
                yield Error(
                    f"{app.name}.{name} cannot be imported: {error}",
                    hint="Actors and queues named `towpath...` are the pipeline's. Give yours another actor_name or"
                    " queue_name.",
                    id="pipeline.E010",
                )


def _config() -> Iterator[CheckMessage]:
    """For a project that changes TOWPATH after `from towpath.conf.settings import *`, which has checked only the
    environment's values."""
    problems = [*config().problems()]
    if not problems and connection.vendor == "postgresql":  # of another one, the first check speaks
        for name, url in config().store_urls.items():
            try:
                # What the DATABASES bring, whose server `postgresql://` stands for.
                require_known(with_own_server(url))
            except ImproperlyConfigured as error:
                problems.append(f"{name}: {error}")
    for problem in problems:
        yield Error(
            config().variable_prefix + problem,
            hint="See docs/settings.md and docs/stores.md.",
            id="pipeline.E020",
        )


def _path(middleware: Any) -> str:
    """Return where the class is defined, whatever module it is imported from."""
    if isinstance(middleware, str):
        middleware = import_string(middleware)
    kind = middleware if isinstance(middleware, type) else type(middleware)
    return f"{kind.__module__}.{kind.__qualname__}"
