"""Checks of what a project needs in its settings besides `towpath.console`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.checks import Error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.apps import AppConfig

#: Where the page's templates and static files come from, and who a visitor is.
_NEEDED = ("towpath.pages", "django_htmx", "django.contrib.staticfiles", "django.contrib.auth")


def check_apps(app_configs: Sequence[AppConfig] | None, **_options: Any) -> list[Error]:  # noqa: ARG001 - Django's
    """An error for each app that the console's pages cannot be shown without."""
    return [
        Error(
            f"towpath.console needs {name} in INSTALLED_APPS.",
            hint='Write "towpath.console", "towpath.pages", "django_htmx" there, beside Django\'s own.',
            id="console.E001",
        )
        for name in _NEEDED
        if not apps.is_installed(name)
    ]
