"""Checks of what a project needs in its settings besides `towpath.console`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from towpath.pages.checks import missing_apps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.apps import AppConfig
    from django.core.checks import Error


def check_apps(app_configs: Sequence[AppConfig] | None, **_options: Any) -> list[Error]:  # noqa: ARG001 - Django's
    """Return an error for each missing app without which the console's pages cannot be shown."""
    return missing_apps("towpath.console", id="console.E001")
