"""Changing and deleting users: the change and its event, or neither."""

from __future__ import annotations

import json
from functools import partial
from threading import Barrier
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.db.models import ProtectedError
from pydantic import ValidationError

from backend.users.events import UserDeleted
from backend.users.models import OutboxUser, OutboxUserChange, User
from backend.users.use_cases import (
    CreateUser,
    CreateUserRequest,
    DeleteUser,
    DeleteUserOutcome,
    UpdateAccountRequest,
    UpdateUser,
    UpdateUserOutcome,
    UpdateUserRequest,
)
from tests.integration.event_log import EventLog
from tests.integration.threads import all_at_once
from tests.integration.windows import deliver, sealed
from towpath.eventlog.store import EventStore
from towpath.flow.delivery import Delivery


@pytest.fixture
def user() -> User:
    """Somebody whose creation is long delivered."""
    return User.objects.create(email="ada@example.com", first_name="Ada", last_name="Lovelace")


def changes() -> list[tuple[str, int, dict[str, Any]]]:
    """(type, user, context) of the undelivered events."""
    rows = OutboxUserChange.objects.order_by("id")
    return [(row.event_type, row.user_id, json.loads(row.event_context)) for row in rows]


def test_an_update_publishes_what_changed_and_nothing_else(user: User) -> None:
    request = UpdateUserRequest(email="lady@example.com", first_name="Ada", last_name="King")

    outcome = UpdateUser().execute(user.pk, request)

    assert outcome.error == ""
    assert outcome.result is not None
    assert (outcome.result.email, outcome.result.last_name) == ("lady@example.com", "King")
    stored = User.objects.get()
    assert (stored.email, stored.first_name, stored.last_name) == ("lady@example.com", "Ada", "King")
    assert stored.updated_at > user.updated_at
    change = {
        "email": {"old": "ada@example.com", "new": "lady@example.com"},
        "last_name": {"old": "Lovelace", "new": "King"},
    }
    assert changes() == [("user_updated", user.pk, {"user_id": user.pk, "changes": change})]


def test_an_account_s_flags_and_groups_are_changes_too(user: User) -> None:
    group = Group.objects.create(name="auditors")

    UpdateUser().execute(user.pk, UpdateAccountRequest(is_active=False, is_staff=False, groups=[group.pk]))

    stored = User.objects.get()
    assert (stored.is_active, [one.name for one in stored.groups.all()]) == (False, ["auditors"])
    change = {"is_active": {"old": True, "new": False}, "groups": {"old": [], "new": [group.pk]}}
    assert changes() == [("user_updated", user.pk, {"user_id": user.pk, "changes": change})]


@pytest.mark.parametrize(
    "request_", [UpdateUserRequest(), UpdateUserRequest(first_name="Ada"), UpdateAccountRequest(groups=[])]
)
def test_an_update_that_changes_nothing_is_no_event(user: User, request_: UpdateUserRequest) -> None:
    outcome = UpdateUser().execute(user.pk, request_)

    assert outcome == UpdateUserOutcome(result=user, error="")
    assert User.objects.get().updated_at == user.updated_at
    assert changes() == []


def test_an_update_to_a_taken_email_changes_nothing_and_leaves_the_transaction_usable(user: User) -> None:
    User.objects.create(email="bob@example.com")

    with transaction.atomic():
        outcome = UpdateUser().execute(user.pk, UpdateUserRequest(email="bob@example.com", first_name="Bob"))
        assert User.objects.get(pk=user.pk).first_name == "Ada"

    assert outcome == UpdateUserOutcome(result=None, error="User with this email already exists")
    assert changes() == []


def test_a_user_that_is_not_there_is_neither_changed_nor_deleted() -> None:
    assert UpdateUser().execute(1, UpdateUserRequest(first_name="A")).error == "There is no such user"
    assert DeleteUser().execute(1).error == "There is no such user"
    assert changes() == []


@pytest.mark.parametrize(
    "bad", [{"email": "no address"}, {"first_name": "a\x00b"}, {"last_name": "x" * 151}, {"password": "x"}]
)
def test_a_bad_value_is_refused_with_the_name_of_its_field(bad: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=next(iter(bad))):
        UpdateUserRequest.model_validate(bad)


def test_a_rollback_takes_change_and_event_back(user: User) -> None:
    with transaction.atomic():
        UpdateUser().execute(user.pk, UpdateUserRequest(first_name="Augusta"))
        transaction.set_rollback(True)
    with transaction.atomic():
        assert DeleteUser().execute(user.pk).error == ""
        transaction.set_rollback(True)

    assert User.objects.get().first_name == "Ada"
    assert changes() == []


def test_the_events_of_updates_that_race_tell_one_history(user: User) -> None:
    """Each one's old value is the new value of the one before."""
    start = Barrier(8)

    def rename(number: int) -> UpdateUserOutcome:
        connection.ensure_connection()
        start.wait()
        return UpdateUser().execute(user.pk, UpdateUserRequest(first_name=f"Ada {number}"))

    all_at_once([partial(rename, number) for number in range(8)])

    names = [context["changes"]["first_name"] for _, _, context in changes()]
    history = ["Ada", *(name["new"] for name in names)]
    assert [name["old"] for name in names] == history[:-1]
    assert len(names) == 8
    assert User.objects.get().first_name == history[-1]


# --- Deleting ----------------------------------------------------------------------------------------------------


def test_a_deletion_publishes_who_was_deleted(user: User) -> None:
    user.groups.add(Group.objects.create(name="auditors"))

    assert DeleteUser().execute(user.pk) == DeleteUserOutcome(error="")

    assert not User.objects.exists()
    event = UserDeleted(user_id=user.pk, email="ada@example.com", first_name="Ada", last_name="Lovelace")
    assert changes() == [("user_deleted", user.pk, event.model_dump())]


def test_a_user_whose_creation_is_undelivered_is_not_deleted_and_the_caller_is_told_to_wait(
    store: EventStore, event_log: EventLog
) -> None:
    # Given a user that has just been created, and updated since
    user = CreateUser().execute(CreateUserRequest(email="a@b.co", first_name="A", last_name="B")).result
    assert user is not None
    UpdateUser().execute(user.pk, UpdateUserRequest(last_name="C"))

    # When it is deleted immediately
    with transaction.atomic():
        outcome = DeleteUser().execute(user.pk)

        # Then nothing happens, and the transaction can continue
        assert outcome.error == "Events about this user are still being delivered. Try again in a few seconds"
        assert User.objects.filter(pk=user.pk).exists()
    assert OutboxUser.objects.count() == 1

    # And when the event is delivered, it works, and the whole life is in the log
    assert deliver(sealed(), store) is Delivery.ACKED
    assert DeleteUser().execute(user.pk).error == ""
    assert deliver(sealed(), store) is Delivery.ACKED
    types = sorted(event.event_type for event in event_log.events())
    assert types == ["user_created", "user_deleted", "user_updated"]


def test_something_else_that_protects_a_user_is_no_matter_of_waiting(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def protected(_self: User) -> None:
        raise ProtectedError("an invoice", {user})

    monkeypatch.setattr(User, "delete", protected)

    with pytest.raises(ProtectedError, match="an invoice"):
        DeleteUser().execute(user.pk)
    assert changes() == []


def test_of_deletions_that_race_one_publishes(user: User) -> None:
    start = Barrier(5)

    def delete() -> DeleteUserOutcome:
        connection.ensure_connection()
        start.wait()
        return DeleteUser().execute(user.pk)

    outcomes = all_at_once([delete] * 5)

    assert sorted(outcome.error for outcome in outcomes) == ["", *["There is no such user"] * 4]
    assert [type_ for type_, _, _ in changes()] == ["user_deleted"]
