"""Publish: the change and its event are committed together, or neither is."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import ProtectedError

from backend.users.models import OutboxUser, OutboxUserChange, User
from backend.users.use_cases import CreateUser, CreateUserOutcome, CreateUserRequest, UserCreated
from deploy.local.process import PROJECT
from tests.integration.threads import all_at_once
from towpath import Event, publish, publish_many
from towpath.outbox.models import OutboxEvent, all_outboxes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from towpath.testing.published import Published

ADA = CreateUserRequest(email="ada@example.com", first_name="Ada", last_name="Lovelace")

#: A process that stops between the two inserts, and says so.
STOPS_BETWEEN_THE_INSERTS = """
import sys
import django
django.setup()
from django.db.models.signals import pre_save
from backend.users.models import OutboxUser
from backend.users.use_cases import CreateUser, CreateUserRequest
def stop(**_):
    print("between", flush=True)
    sys.stdin.read()
pre_save.connect(stop, sender=OutboxUser)
CreateUser().execute(CreateUserRequest(email="ada@example.com", first_name="Ada", last_name="Lovelace"))
"""


class Paid(Event):
    amount: int


def counts() -> tuple[int, int]:
    return User.objects.count(), OutboxUser.objects.count()


@pytest.fixture
def stopped_between_the_inserts() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", STOPS_BETWEEN_THE_INSERTS],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "between\n"
        yield process
        process.kill()


def test_a_user_and_its_event_are_created_together() -> None:
    outcome = CreateUser().execute(ADA)

    assert outcome.error == ""
    assert outcome.result is not None
    assert outcome.result.email == "ada@example.com"
    assert [row.user_id for row in OutboxUser.objects.all()] == [outcome.result.id]


def test_a_rollback_leaves_neither() -> None:
    with transaction.atomic():
        assert CreateUser().execute(ADA).result is not None
        transaction.set_rollback(True)

    assert counts() == (0, 0)


def test_a_savepoint_that_is_rolled_back_takes_its_event_with_it(published: Published) -> None:
    # When one of two users is created inside a savepoint that is rolled back
    with transaction.atomic():
        CreateUser().execute(ADA)
        with transaction.atomic():
            CreateUser().execute(CreateUserRequest(email="bob@example.com", first_name="Bob", last_name="B"))
            transaction.set_rollback(True)

    # Then the other one and its event are there
    assert published.one().context["email"] == "ada@example.com"
    assert User.objects.count() == 1


@pytest.mark.timing
def test_a_process_killed_between_the_two_inserts_leaves_neither(
    stopped_between_the_inserts: subprocess.Popen[str],
) -> None:
    stopped_between_the_inserts.kill()
    stopped_between_the_inserts.wait()

    # Then the address is free (the insert would wait for the dead transaction while that held it)
    assert CreateUser().execute(ADA).result is not None
    assert counts() == (1, 1)


def test_of_twenty_that_race_for_one_email_exactly_one_wins() -> None:
    # Given twenty requests that start at the same moment
    start = threading.Barrier(20)

    def create(number: int) -> CreateUserOutcome:
        connection.ensure_connection()
        start.wait()
        return CreateUser().execute(
            CreateUserRequest(email="ada@example.com", first_name=f"Ada {number}", last_name="Lovelace")
        )

    # When they race
    outcomes = all_at_once([partial(create, number) for number in range(20)])

    # Then one has the user, all others the error, and there is one event, of the winner
    winners = [outcome.result for outcome in outcomes if outcome.result is not None]
    assert len(winners) == 1
    assert sorted(outcome.error for outcome in outcomes) == ["", *["User with this email already exists"] * 19]
    assert [row.user.first_name for row in OutboxUser.objects.select_related("user")] == [winners[0].first_name]
    assert counts() == (1, 1)


def test_the_error_of_a_taken_email_leaves_the_caller_s_transaction_usable(published: Published) -> None:
    CreateUser().execute(ADA)

    with transaction.atomic():
        assert CreateUser().execute(ADA).error == "User with this email already exists"
        assert User.objects.filter(email="ada@example.com").exists()
    published.one(UserCreated, email="ada@example.com")


def test_a_user_with_an_undelivered_event_cannot_be_deleted() -> None:
    user = CreateUser().execute(ADA).result
    assert user is not None

    with pytest.raises(ProtectedError):
        user.delete()
    with pytest.raises(ProtectedError):
        User.objects.all().delete()
    with connection.cursor() as cursor, pytest.raises(IntegrityError):
        cursor.execute("DELETE FROM users")

    assert counts() == (1, 1)


def test_publish_outside_a_transaction_is_refused_with_what_to_write() -> None:
    with pytest.raises(transaction.TransactionManagementError, match=r"with transaction\.atomic\(\)"):
        publish(Paid(amount=1))
    with pytest.raises(transaction.TransactionManagementError):
        publish_many([])

    assert OutboxEvent.objects.count() == 0


@pytest.mark.parametrize("given", [Paid, {"amount": 1}, "paid"])
def test_what_is_no_event_is_refused_with_what_to_write(given: Any) -> None:
    with transaction.atomic():
        with pytest.raises(TypeError, match=r"takes an object of a subclass of towpath.Event, .* not (Paid|dict|str)"):
            publish(given)
        publish(Paid(amount=1))
    assert OutboxEvent.objects.count() == 1


def test_published_events_are_frozen_in_the_general_outbox() -> None:
    with transaction.atomic():
        publish(Paid(amount=1))
        publish_many(Paid(amount=amount) for amount in range(2, 2502))

    rows = OutboxEvent.objects.order_by("id")
    assert [row.event_context for row in rows] == [f'{{"amount":{amount}}}' for amount in range(1, 2502)]
    assert {(row.event_type, row.metadata_version) for row in rows} == {("paid", 1)}
    assert len({row.xid for row in rows}) == 1


def test_a_row_carries_the_id_of_the_transaction_that_wrote_it_also_inside_a_savepoint() -> None:
    with transaction.atomic():
        publish(Paid(amount=1))
        with transaction.atomic():
            publish(Paid(amount=2))
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()::text")
            own = int(cursor.fetchone()[0])

    assert [row.xid for row in OutboxEvent.objects.all()] == [own, own]


def test_every_outbox_is_found_by_itself() -> None:
    assert all_outboxes() == {
        "outbox_event": OutboxEvent,
        "outbox_user": OutboxUser,
        "outbox_user_change": OutboxUserChange,
    }
