"""System checks of the settings that the explorer needs in a project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.checks import Error

from towpath.conf.current import config
from towpath.explorer.scope import scope_function
from towpath.pages.checks import missing_apps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.apps import AppConfig


def check_apps(app_configs: Sequence[AppConfig] | None, **_options: Any) -> list[Error]:  # noqa: ARG001 - Django's
    """Return an error for each missing app without which the explorer's pages cannot be shown."""
    return missing_apps("towpath.explorer", id="explorer.E001")


def check_scope(app_configs: Sequence[AppConfig] | None, **_options: Any) -> list[Error]:  # noqa: ARG001 - Django's
    """Return an error if EXPLORER_SCOPE does not name a function: the explorer would show nothing to anyone."""
    path = config().explorer_scope
    try:
        scope_function(path)
    except Exception as error:  # noqa: BLE001 - the module may raise anything when it is imported
        return [
            Error(
                f"EXPLORER_SCOPE is {path!r}, which cannot be used: {type(error).__name__}: {error}",
                hint="Write the dotted path of a function (user) -> str that returns a query, such as shop.scopes.of.",
                id="explorer.E002",
            )
        ]
    return []
