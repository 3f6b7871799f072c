"""The Django application of the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.checks import register

from towpath.console.checks import check_apps

if TYPE_CHECKING:
    from django.contrib.admin import AdminSite


class ConsoleConfig(AppConfig):
    name = "towpath.console"
    label = "towpath_console"
    verbose_name = "Pipeline console"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        register(check_apps)
        # Those of a project come first: they are found when the admin is ready, which is before this.
        if apps.is_installed("django.contrib.admin"):
            self._show_tables()

    @staticmethod
    def _show_tables() -> None:
        from django.contrib import admin  # noqa: PLC0415 - not every project has it

        from towpath.console import tables  # noqa: PLC0415 - models are ready only now

        tables.register(admin.site)
        _hide_tasks(admin.site)


def _hide_tasks(site: AdminSite) -> None:
    """Remove django-dramatiq's page of tasks, which would stay empty without its middleware."""
    if not apps.is_installed("django_dramatiq"):
        return
    task = apps.get_model("django_dramatiq", "Task")
    middleware = getattr(settings, "DRAMATIQ_BROKER", {}).get("MIDDLEWARE", ())
    if "django_dramatiq.middleware.AdminMiddleware" not in middleware and site.is_registered(task):
        site.unregister(task)
