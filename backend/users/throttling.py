"""What failed sign-ins are counted by (django-axes): the typed name, as much of it as axes' column holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from axes.models import AccessAttempt
from django.http import HttpRequest


def typed_name(request: HttpRequest, credentials: Mapping[str, Any] | None) -> str | None:
    """The name of the admin's form; axes itself would store it whole, and a longer one would be an error 500."""
    name = (credentials or request.POST).get("username")
    return None if name is None else str(name)[: AccessAttempt._meta.get_field("username").max_length]
