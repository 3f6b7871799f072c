"""Every URL of the web application."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import path

from backend.config.api import api, not_found


def healthz(_request: HttpRequest) -> HttpResponse:
    """True if the process answers; says nothing of the services."""
    return HttpResponse("ok\n", content_type="text/plain")


urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/", not_found),  # before ninja's root, which is a page in HTML
    path("api/", api.urls),
    path("api/<path:_rest>", not_found),
    path("healthz", healthz),
]
