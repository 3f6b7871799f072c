"""The Django application of the explorer."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register

from towpath.explorer.checks import check_apps, check_scope


class ExplorerConfig(AppConfig):
    name = "towpath.explorer"
    label = "towpath_explorer"
    verbose_name = "Event explorer"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        register(check_apps)
        register(check_scope)
