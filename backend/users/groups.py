"""What the application does with groups, which grant permissions to all their members. The rights are looked at as in
use_cases.py."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from django.contrib.auth.models import Group
from django.db import transaction

from backend.users.events import UserRefused
from backend.users.models import User
from backend.users.rights import Actor, NotAllowedError, refused


@dataclass(frozen=True, slots=True)
class GroupOutcome:
    """`refusal` is None, or what was published because the account may not do this."""

    result: Group | None = None
    refusal: UserRefused | None = None


class SaveGroup:
    """Makes a group (without `group_id`) or changes one: its name, and all its permissions by primary key."""

    def execute(self, group_id: int | None, *, name: str, permissions: Collection[int], by: User) -> GroupOutcome:
        action = "auth.add_group" if group_id is None else "auth.change_group"
        try:
            with transaction.atomic():
                actor = Actor.locked(by, permission=action)
                group = Group()
                if group_id is not None:
                    group = Group.objects.select_for_update().get(pk=group_id)
                    actor.require_to_act_on_group(group)
                actor.require_to_grant(permissions=permissions)
                group.name = name
                group.save()
                group.permissions.set(permissions)
        except NotAllowedError as error:
            return GroupOutcome(refusal=refused(action, f"group:{group_id or ''}", error))
        return GroupOutcome(group)


class DeleteGroup:
    """Deletes a group, and so takes its permissions from its members."""

    def execute(self, group_id: int, *, by: User) -> GroupOutcome:
        action = "auth.delete_group"
        try:
            with transaction.atomic():
                actor = Actor.locked(by, permission=action)
                group = Group.objects.select_for_update().get(pk=group_id)
                actor.require_to_act_on_group(group)
                group.delete()
        except NotAllowedError as error:
            return GroupOutcome(refusal=refused(action, f"group:{group_id}", error))
        return GroupOutcome()
