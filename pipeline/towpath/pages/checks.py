"""The system check of what an application with pages needs in a project's settings."""

from __future__ import annotations

from django.apps import apps
from django.core.checks import Error

#: The apps with the pages' templates and static files, and the app that says who a visitor is.
_NEEDED = ("towpath.pages", "django_htmx", "django.contrib.staticfiles", "django.contrib.auth")


def missing_apps(app: str, *, id: str) -> list[Error]:  # noqa: A002 - Django's word
    """Return an error for each missing app without which the pages of `app` cannot be shown."""
    return [
        Error(
            f"{app} needs {name} in INSTALLED_APPS.",
            hint=f'Write "{app}", "towpath.pages", "django_htmx" there, beside Django\'s own.',
            id=id,
        )
        for name in _NEEDED
        if not apps.is_installed(name)
    ]
