"""Every URL of the web application."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import path
from ninja import NinjaAPI

from backend.users.api import router as users_router

api = NinjaAPI(title="Towpath", version="1", description="A sample application that publishes its events.")
api.add_router("/users", users_router)


def healthz(_request: HttpRequest) -> HttpResponse:
    """True if the process answers; says nothing of the services."""
    return HttpResponse("ok\n", content_type="text/plain")


urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/", api.urls),
    path("healthz", healthz),
]
