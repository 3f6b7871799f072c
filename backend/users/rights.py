"""Who may do what to whom: nobody grants what they do not have, and nobody acts on an account that may do more.

All changes that people make to accounts and groups wait for each other, so that what is decided still holds when it is
committed: two clerks cannot give each other what neither has, two superusers cannot remove each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from django.contrib.auth.models import Group, Permission
from django.db import connection, transaction
from django.db.models import Q

from backend.users.events import UserRefused
from backend.users.models import User
from towpath import publish
from towpath.outbox.context import bind

#: PostgreSQL's advisory lock of this number is held to the end of a transaction that changes what people may do.
_LOCK = 7_119_041


class NotAllowedError(Exception):
    """The account `by` may not do this; the text says why. Raised before anything is changed."""

    def __init__(self, by: User, reason: str) -> None:
        super().__init__(reason)
        self.by = by


@dataclass(frozen=True, slots=True)
class Rights:
    """What an account may do, or may do again once it is activated."""

    is_superuser: bool = False
    is_staff: bool = False
    #: Primary keys.
    permissions: frozenset[int] = frozenset()

    @classmethod
    def of(cls, user: User) -> Self:
        """As they are stored: `has_perm` would say that an inactive superuser may do nothing."""
        granted = Permission.objects.filter(Q(user=user) | Q(group__user=user)).values_list("pk", flat=True)
        return cls(user.is_superuser, user.is_staff, frozenset(granted))

    def covers(self, other: Rights) -> bool:
        """True if there is nothing that `other` has and these have not."""
        return self.is_superuser or (
            not other.is_superuser and self.is_staff >= other.is_staff and self.permissions >= other.permissions
        )


@dataclass(frozen=True, slots=True)
class Actor:
    """The account that acts, as it is stored now, with the lock held."""

    user: User
    rights: Rights

    @classmethod
    def locked(cls, by: User, *, permission: str) -> Self:
        """Raises NotAllowedError unless the account is active and has this permission (`users.change_user`)."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        user = User.objects.select_for_update(no_key=True).filter(pk=by.pk, is_active=True).first()
        if user is None or not user.has_perm(permission):
            raise NotAllowedError(by, f"You may not do this: you lack the permission {permission}")
        return cls(user, Rights.of(user))

    def require_to_act_on(self, user: User) -> None:
        """Raise NotAllowedError if the account may do more than this one."""
        if not self.rights.covers(Rights.of(user)):
            raise NotAllowedError(self.user, "You may not act on an account that may do more than you")

    def require_to_act_on_group(self, group: Group) -> None:
        """Raise NotAllowedError if the group, or one of its members, may do more than this account."""
        if self.rights.is_superuser:
            return
        others = Permission.objects.exclude(pk__in=self.rights.permissions)
        is_above = Q(is_superuser=True) | Q(user_permissions__in=others) | Q(groups__permissions__in=others)
        if not self.rights.is_staff:
            is_above |= Q(is_staff=True)
        is_member_above = User.objects.filter(groups=group).filter(is_above).exists()
        if is_member_above or group.permissions.filter(pk__in=others).exists():
            raise NotAllowedError(
                self.user, "You may not act on a group if it, or one of its members, may do more than you"
            )

    def require_to_grant(
        self,
        *,
        is_superuser: bool = False,
        is_staff: bool = False,
        groups: Iterable[int] = (),
        permissions: Iterable[int] = (),
    ) -> None:
        """Raise NotAllowedError if something of this is more than the account has itself."""
        by_groups = Permission.objects.filter(group__in=list(groups)).values_list("pk", flat=True)
        granted = Rights(is_superuser, is_staff, frozenset({*permissions, *by_groups}))
        if not self.rights.covers(granted):
            raise NotAllowedError(self.user, "You may not grant what you do not have yourself")

    def require_another_superuser(self, user: User) -> None:
        """Raise NotAllowedError if the account is the last one that may do everything."""
        superusers = User.objects.filter(is_superuser=True, is_active=True, is_staff=True)
        if user.is_superuser and user.is_active and not superusers.exclude(pk=user.pk).exists():
            raise NotAllowedError(
                self.user, "This is the last active superuser: make another account a superuser first"
            )


def publish_refusal(refusal: UserRefused, by: User) -> None:
    """Publish that `by` was refused, in a transaction of its own unless there is one."""
    with bind(actor=f"user:{by.pk}"), transaction.atomic():
        publish(refusal)


def refused(action: str, target: str, error: NotAllowedError) -> UserRefused:
    """The refusal as an event, published."""
    refusal = UserRefused(action=action, target=target, reason=str(error))
    publish_refusal(refusal, error.by)
    return refusal
