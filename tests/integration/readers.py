"""People who use the explorer, and what Django answers them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from django.contrib.auth.models import Permission
from django.test import Client

from backend.users.models import User
from towpath.outbox.models import OutboxEvent

if TYPE_CHECKING:
    from django.test.client import _MonkeyPatchedWSGIResponse as Answer


def reader(*more: str, email: str = "ada@example.com") -> User:
    """Somebody who may read events, and has these permissions besides: `export_events`."""
    user = User.objects.create(email=email, first_name="Ada", last_name="L", is_staff=True)
    names = ("view_events", *more)
    user.user_permissions.add(
        *Permission.objects.filter(codename__in=names, content_type__app_label="towpath_explorer")
    )
    return user


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def text(response: Answer) -> str:
    return response.content.decode()


def recorded(event_type: str) -> list[dict[str, Any]]:
    """What was published of this type, oldest first: the context, and what is bound."""
    rows = OutboxEvent.objects.filter(event_type=event_type).order_by("id").values_list("event_context", "bound")
    return [{**json.loads(context), **(bound or {})} for context, bound in rows]
