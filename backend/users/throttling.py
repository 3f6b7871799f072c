"""How failed sign-ins are counted (django-axes): by a hash of the typed name, because people type passwords there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from axes.handlers.database import AxesDatabaseHandler
from axes.models import AccessAttempt
from django.db.models.signals import pre_save
from django.dispatch import receiver
from django.http import HttpRequest

from backend.users.events import UserLoginFailed


def hashed_name(request: HttpRequest, credentials: Mapping[str, Any] | None) -> str | None:
    """What axes knows of the name of the admin's form: the hash that `user_login_failed` has as well."""
    name = (credentials or request.POST).get("username")
    return None if name is None else _hash(str(name))


class Handler(AxesDatabaseHandler):  # type: ignore[misc]  # axes has no types
    """axes' own; `axes_reset_username` and `axes_reset_ip_username` take the name as it is typed."""

    def reset_attempts(
        self, *, ip_address: str | None = None, username: str | None = None, ip_or_username: bool = False
    ) -> int:
        count: int = super().reset_attempts(
            ip_address=ip_address, username=_hash(username) if username else None, ip_or_username=ip_or_username
        )
        return count


@receiver(pre_save, sender=AccessAttempt, dispatch_uid="keep_no_form_data")
def keep_no_form_data(instance: AccessAttempt, **_kwargs: Any) -> None:
    """axes masks the fields that it knows; what else is typed, or comes in the address, is kept nowhere either."""
    instance.get_data = instance.post_data = ""


def _hash(name: str) -> str:
    return str(UserLoginFailed(user_name=name).model_dump()["user_name"])
