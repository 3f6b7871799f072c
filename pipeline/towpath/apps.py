"""The Django application: one line in INSTALLED_APPS brings outbox, ledger, event log and commands."""

from __future__ import annotations

from types import ModuleType

from django.apps import AppConfig
from django.core.checks import Tags, register
from django.core.signals import setting_changed
from django.db.models.signals import post_migrate, pre_migrate

from towpath.checks import check_database, check_production, check_settings, require_settings
from towpath.conf.current import config
from towpath.conf.logs import configure_unless_done
from towpath.conf.secrets import hide_secrets
from towpath.telemetry import failpoints


class TowpathConfig(AppConfig):
    name = "towpath"
    default_auto_field = "django.db.models.BigAutoField"

    def __init__(self, app_name: str, app_module: ModuleType) -> None:
        # Not in a system check: without DRAMATIQ_BROKER, django_dramatiq's own defaults fail first, in its __init__.
        require_settings()
        super().__init__(app_name, app_module)

    def ready(self) -> None:
        hide_secrets()
        setting_changed.connect(hide_secrets)
        configure_unless_done()
        failpoints.arm(config().failpoints)
        from towpath.ledger import migrating  # noqa: PLC0415 - its models are ready only now
        from towpath.outbox.checks import check_outboxes  # noqa: PLC0415 - the same

        register(check_settings)
        register(check_production, deploy=True)
        register(check_outboxes, Tags.models)
        register(check_database, Tags.database)
        pre_migrate.connect(migrating.refuse_to_lose_events, sender=self)
        post_migrate.connect(migrating.forget_drained, sender=self)
