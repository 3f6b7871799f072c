"""Accounts that may do everything, without the event that `createsuperuser` publishes: the tests count events."""

from __future__ import annotations

from django.contrib.auth.hashers import make_password

from backend.users.models import User


def superuser(email: str = "root@example.com", password: str | None = None) -> User:
    """The account, inserted. Without a password, nobody can sign in with it, and no hash is computed."""
    return User.objects.create(
        email=email, password=make_password(password), first_name="R", last_name="R", is_staff=True, is_superuser=True
    )
