"""Sign-ins and sign-outs, published from Django's own signals, so that every way of signing in is covered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db import transaction
from django.dispatch import receiver
from django.http import HttpRequest

from backend.users.events import UserLoggedIn, UserLoggedOut, UserLoginFailed
from backend.users.models import User
from towpath import Event, publish
from towpath.outbox.context import bind
from towpath.outbox.event import Outcome


@receiver(user_logged_in, dispatch_uid="publish_user_logged_in")
def publish_login(user: User, **_kwargs: Any) -> None:
    # The request began before anybody was signed in.
    with bind(actor=f"user:{user.pk}"):
        _publish(UserLoggedIn(user_id=user.pk))


@receiver(user_logged_out, dispatch_uid="publish_user_logged_out")
def publish_logout(user: User | None, **_kwargs: Any) -> None:
    # Nobody was signed in: a visit to the sign-out page is not an event.
    if user is not None:
        _publish(UserLoggedOut(user_id=user.pk))


@receiver(user_login_failed, dispatch_uid="publish_user_login_failed")
def publish_login_failure(credentials: Mapping[str, Any], request: HttpRequest | None = None, **_kwargs: Any) -> None:
    # Only the name is taken: the other credentials are secrets, under whatever key.
    name = credentials.get("username", credentials.get(User.USERNAME_FIELD))
    event = UserLoginFailed(user_name="" if name is None else str(name))
    # Set by axes: the password was not looked at, or is not from now on.
    _publish(event, outcome="denied" if getattr(request, "axes_locked_out", False) else None)


def _publish(event: Event, *, outcome: Outcome | None = None) -> None:
    with transaction.atomic():
        publish(event, outcome=outcome)
