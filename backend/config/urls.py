"""Every URL of the web application."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from backend.config.api import api, not_found

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="api-1:openapi-view")),
    path("admin/", admin.site.urls),
    path("events/", include("towpath.explorer.urls")),
    path("pipeline/", include("towpath.console.urls")),
    path("api", not_found),
    path("api/", not_found),  # before ninja's root, which is a page in HTML
    path("api/", api.urls),
    path("api/<path:_rest>", not_found),
]
