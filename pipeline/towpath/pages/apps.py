"""The Django application that has the frame's templates and static files."""

from __future__ import annotations

from django.apps import AppConfig


class PagesConfig(AppConfig):
    name = "towpath.pages"
    label = "towpath_pages"
    verbose_name = "Towpath's pages"
