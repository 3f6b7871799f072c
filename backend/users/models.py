"""Users, and the outboxes of what happens to them."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models, transaction

from backend.users.events import UserCreated, UserDeleted, UserUpdated
from towpath.outbox.models import FrozenOutbox, LeanOutbox


class UserManager(BaseUserManager["User"]):
    """Adds accounts: none without its event."""

    def add(self, user: User) -> None:
        """Insert the user and publish `user_created`, both or neither."""
        with transaction.atomic(using=self.db):
            user.save(force_insert=True, using=self.db)
            OutboxUser.objects.using(self.db).create(user=user)

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        """An account that may do everything in the admin (what `manage.py createsuperuser` calls)."""
        user = User(email=email, is_staff=True, is_superuser=True, **fields)
        user.set_password(password)
        self.add(user)
        return user


class User(AbstractBaseUser, PermissionsMixin):
    """A person, known by email address."""

    email = models.EmailField(unique=True)
    first_name = models.CharField(max_length=150)
    last_name = models.CharField(max_length=150)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField(default=False)

    objects = UserManager()

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = ["first_name", "last_name"]

    class Meta:
        db_table = "users"

    def __str__(self) -> str:
        return self.email


class OutboxUser(LeanOutbox):
    """A user was created, and the event store does not know it yet."""

    # PROTECT: deleting a user must never delete the event that it was created.
    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")

    event = UserCreated
    event_date_time = "user__created_at"
    event_target = "user:{user_id}"
    event_context: ClassVar[dict[str, str]] = {
        "email": "user__email",
        "first_name": "user__first_name",
        "last_name": "user__last_name",
    }

    class Meta(LeanOutbox.Meta):
        db_table = "outbox_user"
        verbose_name = "undelivered user event"


class OutboxUserChange(FrozenOutbox):
    """A user was changed or deleted, and the event store does not know it yet."""

    events = (UserUpdated, UserDeleted)

    #: Not a foreign key: the event outlives the user.
    user_id = models.BigIntegerField()

    class Meta(FrozenOutbox.Meta):
        db_table = "outbox_user_change"
        verbose_name = "undelivered change of a user"
