"""Nobody grants what they do not have, and nobody acts on an account that may do more than they may.

Each refusal changes nothing and is an event.
"""

from __future__ import annotations

import json
from functools import partial
from threading import Barrier
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission
from django.db import connection
from django.test import Client

from backend.users.models import OutboxUserChange, User
from backend.users.use_cases import DeleteUser, UpdateAccountRequest, UpdateUser, UpdateUserOutcome, UpdateUserRequest
from tests.integration.threads import all_at_once
from towpath.outbox.models import OutboxEvent


def permission(name: str) -> Permission:
    app, codename = name.split(".")
    return Permission.objects.get(content_type__app_label=app, codename=codename)


def account(name: str, *permissions: str, **fields: Any) -> User:
    user = User.objects.create(email=f"{name}@example.com", first_name="F", last_name="L", **fields)
    user.user_permissions.set(permission(one) for one in permissions)
    return user


@pytest.fixture
def clerk() -> User:
    """May change and delete users and groups, and nothing else."""
    rights = ("users.view_user", "users.change_user", "users.delete_user")
    return account(
        "clerk", *rights, "auth.view_group", "auth.add_group", "auth.change_group", "auth.delete_group", is_staff=True
    )


@pytest.fixture
def root() -> User:
    return account("root", is_staff=True, is_superuser=True)


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    OutboxEvent.objects.all().delete()  # that it signed in
    return client


def refusals() -> list[tuple[str, str, str]]:
    """(action, target, actor) of what is published."""
    rows = OutboxEvent.objects.filter(event_type="user_refused").order_by("id")
    contexts = [(json.loads(row.event_context), (row.bound or {})["actor"]) for row in rows]
    return [(context["action"], context["target"], actor) for context, actor in contexts]


def form_of(user: User, **changes: Any) -> dict[str, Any]:
    """What the admin's page sends when nothing but this is changed."""
    flags = {name: "on" for name in ("is_active", "is_staff", "is_superuser") if getattr(user, name)}
    relations = {name: [one.pk for one in getattr(user, name).all()] for name in ("groups", "user_permissions")}
    names = {name: getattr(user, name) for name in ("email", "first_name", "last_name")}
    form = {**names, **flags, **relations, **changes}
    return {name: value for name, value in form.items() if value is not None}


def everything(user: User) -> tuple[Any, ...]:
    """What an account is and may do."""
    row = User.objects.filter(pk=user.pk).values(
        "email", "first_name", "password", "is_active", "is_staff", "is_superuser"
    )
    relations = [sorted(getattr(user, name).values_list("pk", flat=True)) for name in ("groups", "user_permissions")]
    return (list(row), relations)


def assert_refused(clerk: User, target: User, form: dict[str, Any]) -> None:
    before = everything(target)
    client = client_of(clerk)

    response = client.post(f"/admin/users/user/{target.pk}/change/", form, follow=True)

    assert "You may not" in response.content.decode()
    assert everything(target) == before
    assert refusals() == [("users.change_user", f"user:{target.pk}", f"user:{clerk.pk}")]
    assert OutboxUserChange.objects.count() == LogEntry.objects.count() == 0


# --- Granting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whom", ["oneself", "another"])
@pytest.mark.parametrize("what", ["superuser", "permission", "group", "all permissions"])
def test_nobody_grants_what_they_do_not_have(clerk: User, whom: str, what: str) -> None:
    target = clerk if whom == "oneself" else account("bob")
    powerful = Group.objects.create(name="powerful")
    powerful.permissions.add(permission("users.add_user"))
    forms: dict[str, dict[str, Any]] = {
        "superuser": {"is_superuser": "on"},
        "permission": {"user_permissions": [permission("users.add_user").pk]},
        "group": {"groups": [powerful.pk]},
        "all permissions": {"user_permissions": list(Permission.objects.values_list("pk", flat=True))},
    }

    assert_refused(clerk, target, form_of(target, **forms[what]))


def test_what_one_has_one_may_grant_and_take_back(clerk: User) -> None:
    bob, client = account("bob"), client_of(clerk)
    group = Group.objects.create(name="deleters")
    group.permissions.add(permission("users.delete_user"))
    url = f"/admin/users/user/{bob.pk}/change/"
    granted = {"is_staff": "on", "groups": [group.pk], "user_permissions": [permission("users.change_user").pk]}

    assert client.post(url, form_of(bob, **granted)).status_code == 302
    bob.refresh_from_db()
    assert bob.has_perm("users.delete_user")
    assert bob.has_perm("users.change_user")
    assert (
        client.post(url, form_of(bob, is_staff=None, groups=[], user_permissions=[], is_active=None)).status_code == 302
    )
    bob.refresh_from_db()

    assert (bob.is_active, bob.is_staff, bob.groups.count(), bob.user_permissions.count()) == (False, False, 0, 0)
    assert refusals() == []


def test_who_is_not_staff_makes_nobody_staff() -> None:
    outsider, bob = account("outsider", "users.change_user"), account("bob")

    outcome = UpdateUser().execute(bob.pk, UpdateAccountRequest(is_staff=True), by=outsider)

    assert outcome.error == "You may not grant what you do not have yourself"
    assert not User.objects.get(pk=bob.pk).is_staff


# --- Acting on an account that may do more -----------------------------------------------------------------------


def superiors() -> dict[str, User]:
    group = Group.objects.create(name="makers")
    group.permissions.add(permission("users.add_user"))
    by_group = account("by-group")
    by_group.groups.add(group)
    return {
        "superuser": account("superior", is_staff=True, is_superuser=True),
        "superuser that is not staff": account("superior-2", is_superuser=True),
        "inactive superuser": account("inactive", is_staff=True, is_superuser=True, is_active=False),
        "by a permission": account("by-permission", "users.add_user"),
        "by a group": by_group,
        "inactive, by a permission": account("inactive-2", "users.add_user", is_active=False),
    }


SUPERIORS = [
    "superuser",
    "superuser that is not staff",
    "inactive superuser",
    "by a permission",
    "by a group",
    "inactive, by a permission",
]


@pytest.mark.parametrize("which", SUPERIORS)
@pytest.mark.parametrize(
    "change",
    [
        {"email": "mine@example.com"},
        {"first_name": "Mine"},
        {"is_active": None, "first_name": "Mine"},
        {"is_active": "on", "first_name": "Mine"},
        {"is_staff": None, "is_superuser": None, "groups": [], "user_permissions": []},
    ],
)
def test_nobody_changes_an_account_that_may_do_more(clerk: User, which: str, change: dict[str, Any]) -> None:
    target = superiors()[which]

    assert_refused(clerk, target, form_of(target, **change))


@pytest.mark.parametrize("which", SUPERIORS)
def test_nobody_changes_or_deletes_such_an_account_by_the_api(clerk: User, which: str) -> None:
    target = superiors()[which]
    before, client, url = everything(target), client_of(clerk), f"/api/users/{target.pk}"

    changed = client.patch(url, json.dumps({"email": "mine@example.com"}), content_type="application/json")
    deleted = client.delete(url)

    assert (changed.status_code, deleted.status_code) == (403, 403)
    assert changed.json() == {"error": "You may not act on an account that may do more than you"}
    assert everything(target) == before
    by = f"user:{clerk.pk}"
    assert refusals() == [(f"users.{verb}_user", f"user:{target.pk}", by) for verb in ("change", "delete")]
    assert OutboxUserChange.objects.count() == 0


@pytest.mark.parametrize("which", SUPERIORS)
def test_nobody_deletes_such_an_account_in_the_admin_alone_or_among_others(clerk: User, which: str) -> None:
    target, bob, client = superiors()[which], account("bob"), client_of(clerk)

    one = client.post(f"/admin/users/user/{target.pk}/delete/", {"post": "yes"}, follow=True)
    chosen = {"action": "delete_selected", "_selected_action": [bob.pk, target.pk], "post": "yes"}
    many = client.post("/admin/users/user/", chosen, follow=True)
    everybody = client.post("/admin/users/user/", {**chosen, "select_across": "1"}, follow=True)

    for response in (one, many, everybody):
        assert "You may not act on an account" in response.content.decode()
    assert User.objects.filter(pk__in=[target.pk, bob.pk]).count() == 2
    assert [action for action, _, _ in refusals()] == ["users.delete_user"] * 3
    assert OutboxUserChange.objects.count() == LogEntry.objects.count() == 0


def test_equals_and_lesser_accounts_may_be_changed_and_deleted(clerk: User) -> None:
    equal, client = account("equal", "users.change_user", is_staff=True), client_of(clerk)

    renamed = client.patch(f"/api/users/{equal.pk}", json.dumps({"first_name": "E"}), content_type="application/json")
    oneself = client.patch(f"/api/users/{clerk.pk}", json.dumps({"first_name": "C"}), content_type="application/json")
    deleted = client.delete(f"/api/users/{equal.pk}")

    assert (renamed.status_code, oneself.status_code, deleted.status_code) == (200, 200, 204)
    assert refusals() == []


def test_there_is_no_page_that_sets_the_password_of_another(root: User) -> None:
    bob = account("bob")
    page = client_of(root).post(f"/admin/users/user/{bob.pk}/password/", {"password1": "x" * 20, "password2": "x" * 20})

    assert page.status_code == 302
    assert User.objects.get(pk=bob.pk).password == bob.password


# --- Without the permission at all -------------------------------------------------------------------------------


def test_an_attempt_without_the_permission_is_an_event_too() -> None:
    nobody, bob = account("nobody", is_staff=True), account("bob")
    client = client_of(nobody)

    assert client.patch(f"/api/users/{bob.pk}", "{}", content_type="application/json").status_code == 403
    assert client.delete(f"/api/users/{bob.pk}").status_code == 403
    assert client.post(f"/admin/users/user/{bob.pk}/change/", form_of(bob, first_name="X")).status_code == 403
    assert client.post(f"/admin/users/user/{bob.pk}/delete/", {"post": "yes"}).status_code == 403

    target, by = f"user:{bob.pk}", f"user:{nobody.pk}"
    assert refusals() == [(f"users.{verb}_user", target, by) for verb in ("change", "delete", "change", "delete")]


def test_who_was_deactivated_since_may_nothing(root: User) -> None:
    bob = account("bob")
    User.objects.filter(pk=root.pk).update(is_active=False)

    assert DeleteUser().execute(bob.pk, by=root).refusal is not None
    assert User.objects.filter(pk=bob.pk).exists()


# --- The last superuser ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"is_superuser": None}, {"is_active": None}, {"is_staff": None}])
def test_the_last_superuser_cannot_step_down(root: User, change: dict[str, Any]) -> None:
    account("inactive", is_staff=True, is_superuser=True, is_active=False)
    before, client, url = everything(root), client_of(root), f"/admin/users/user/{root.pk}/change/"

    response = client.post(url, form_of(root, **change), follow=True)
    deleted = client.delete(f"/api/users/{root.pk}")

    assert "last active superuser" in response.content.decode()
    assert deleted.status_code == 403
    assert everything(root) == before
    second = account("second", is_staff=True, is_superuser=True)
    assert client.post(url, form_of(root, **change)).status_code == 302
    assert client_of(second).delete(f"/api/users/{root.pk}").status_code == 204


def test_of_two_superusers_who_remove_each_other_at_once_one_stays(root: User) -> None:
    other = account("other", is_staff=True, is_superuser=True)
    start = Barrier(2)

    def demote(by: User, target: User) -> UpdateUserOutcome:
        connection.ensure_connection()
        start.wait()
        return UpdateUser().execute(target.pk, UpdateAccountRequest(is_superuser=False), by=by)

    outcomes = all_at_once([partial(demote, root, other), partial(demote, other, root)])

    assert sorted(outcome.refusal is None for outcome in outcomes) == [False, True]
    assert User.objects.filter(is_superuser=True, is_active=True).count() == 1


def test_rights_that_are_taken_meanwhile_grant_nothing(clerk: User, root: User) -> None:
    """The second one sees what the first has committed, whichever that is."""
    bob, change = account("bob"), permission("users.change_user").pk
    start = Barrier(2)

    def run(by: User, target: User, **values: Any) -> UpdateUserOutcome:
        connection.ensure_connection()
        start.wait()
        return UpdateUser().execute(target.pk, UpdateAccountRequest(**values), by=by)

    taken, granted = all_at_once(
        [
            partial(run, root, clerk, user_permissions=[]),
            partial(run, clerk, bob, user_permissions=[change]),
        ]
    )

    assert taken.refusal is None
    assert bob.user_permissions.count() == (granted.refusal is None)


@pytest.mark.parametrize("lookup", ["password__startswith", "password", "password__regex"])
def test_who_may_view_users_cannot_ask_for_their_password_s_hash(root: User, lookup: str) -> None:
    viewer = account("viewer", "users.view_user", is_staff=True)

    response = client_of(viewer).get("/admin/users/user/", {lookup: root.password})

    assert response.status_code == 400


# --- Groups ------------------------------------------------------------------------------------------------------


def test_nobody_puts_into_a_group_what_they_do_not_have(clerk: User) -> None:
    group = Group.objects.create(name="clerks")
    clerk.groups.add(group)
    client, more = client_of(clerk), permission("users.add_user").pk

    changed = client.post(
        f"/admin/auth/group/{group.pk}/change/", {"name": "clerks", "permissions": [more]}, follow=True
    )
    added = client.post("/admin/auth/group/add/", {"name": "new", "permissions": [more]}, follow=True)

    for response in (changed, added):
        assert "You may not grant" in response.content.decode()
    assert [(one.name, one.permissions.count()) for one in Group.objects.all()] == [("clerks", 0)]
    by = f"user:{clerk.pk}"
    assert refusals() == [("auth.change_group", f"group:{group.pk}", by), ("auth.add_group", "group:", by)]
    assert LogEntry.objects.count() == 0


@pytest.mark.parametrize("why", ["it may do more", "a member may do more", "an inactive member may do more"])
def test_nobody_changes_or_deletes_a_group_that_or_whose_members_may_do_more(clerk: User, why: str) -> None:
    group = Group.objects.create(name="team")
    own = permission("users.change_user")
    group.permissions.add(permission("users.add_user") if why == "it may do more" else own)
    if "member" in why:
        account("member", is_superuser="inactive" not in why, is_active="inactive" not in why).groups.add(group)
        User.objects.filter(email="member@example.com").update(is_superuser=True)
    client, url = client_of(clerk), f"/admin/auth/group/{group.pk}/"
    chosen = {"action": "delete_selected", "_selected_action": [group.pk], "post": "yes"}
    before = sorted(group.permissions.values_list("pk", flat=True))

    responses = [
        client.post(f"{url}change/", {"name": "renamed", "permissions": []}, follow=True),
        client.post(f"{url}delete/", {"post": "yes"}, follow=True),
        client.post("/admin/auth/group/", chosen, follow=True),
    ]

    for response in responses:
        assert "You may not act on a group" in response.content.decode()
    group = Group.objects.get()
    assert (group.name, sorted(group.permissions.values_list("pk", flat=True))) == ("team", before)
    assert [action for action, _, _ in refusals()] == ["auth.change_group", *["auth.delete_group"] * 2]


def test_a_group_within_one_s_rights_is_made_changed_and_deleted(clerk: User, root: User) -> None:
    own, client = permission("users.change_user").pk, client_of(clerk)

    assert client.post("/admin/auth/group/add/", {"name": "team", "permissions": [own]}).status_code == 302
    group = Group.objects.get()
    account("bob").groups.add(group)
    assert [one.pk for one in group.permissions.all()] == [own]
    assert client.post(f"/admin/auth/group/{group.pk}/change/", {"name": "crew", "permissions": []}).status_code == 302
    assert Group.objects.get().name == "crew"
    assert group.permissions.count() == 0
    assert client.post(f"/admin/auth/group/{group.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not Group.objects.exists()

    more = {"name": "all", "permissions": list(Permission.objects.values_list("pk", flat=True))}
    assert client_of(root).post("/admin/auth/group/add/", more).status_code == 302
    assert Group.objects.get().permissions.count() == Permission.objects.count()
    assert refusals() == []


def test_code_that_asks_for_itself_is_not_asked_for_rights(root: User) -> None:
    assert UpdateUser().execute(root.pk, UpdateUserRequest(first_name="Root")).error == ""
    assert DeleteUser().execute(root.pk).error == ""
