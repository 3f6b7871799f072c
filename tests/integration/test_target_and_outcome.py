"""What was acted on, and how it ended: said by the call, by the event, or bound, and stored in columns of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.db import connection, transaction
from django.test import Client

from backend.users.events import UserCreated, UserDeleted
from backend.users.models import OutboxUser, User
from backend.users.use_cases import CreateUser, CreateUserRequest, DeleteUser, UpdateUser, UpdateUserRequest
from tests.integration.rows import create_users
from tests.integration.superusers import superuser
from tests.integration.windows import deliver, sealed
from tests.unit.outboxes import Renamed, lean
from towpath import Event, publish, publish_many
from towpath.flow.delivery import Delivery
from towpath.outbox.checks import check_outboxes, problems_of
from towpath.outbox.context import bind
from towpath.outbox.errors import EventNotStorable
from towpath.outbox.models import OutboxEvent

if TYPE_CHECKING:
    from tests.integration.event_log import EventLog
    from towpath.eventlog.store import Store


class Opened(Event):
    """Says nothing of itself."""

    n: int = 1


class Paid(Event):
    """Says both of itself."""

    event_outcome = "success"

    invoice: int

    @property
    def event_target(self) -> str:
        return f"invoice:{self.invoice}"


def said() -> list[tuple[str | None, str | None]]:
    """Target and outcome of each row of the general outbox."""
    bound = [row.bound or {} for row in OutboxEvent.objects.order_by("id")]
    return [(one.get("target"), one.get("outcome")) for one in bound]


def test_the_call_wins_over_the_event_and_the_event_over_what_is_bound() -> None:
    with transaction.atomic():
        publish(Opened())
        publish(Opened(), target="door:1", outcome="denied")
        publish(Paid(invoice=7))
        publish(Paid(invoice=7), target="invoice:8", outcome="failure")
        with bind(target="import:9", outcome="failure", actor="user:1"):
            publish(Opened())
            publish(Opened(), outcome="success")
            publish(Paid(invoice=7))
            publish_many([Opened(), Paid(invoice=8)])
        publish_many([Opened(), Paid(invoice=9)], target="batch:1", outcome="denied")

    assert said() == [
        (None, None),
        ("door:1", "denied"),
        ("invoice:7", "success"),
        ("invoice:8", "failure"),
        ("import:9", "failure"),
        ("import:9", "success"),
        ("invoice:7", "success"),
        ("import:9", "failure"),
        ("invoice:8", "success"),
        ("batch:1", "denied"),
        ("batch:1", "denied"),
    ]
    assert OutboxEvent.objects.filter(bound__actor="user:1").count() == 5


def test_neither_is_in_the_context() -> None:
    event = Paid(invoice=7)
    with transaction.atomic():
        publish(event, target="invoice:8")

    assert OutboxEvent.objects.get().event_context == event.model_dump_json() == '{"invoice":7}'


def test_another_outcome_is_refused_wherever_it_is_said() -> None:
    wrong: Any = "won"
    with transaction.atomic():
        with pytest.raises(EventNotStorable, match=r"Opened cannot be stored: .*one of success, failure, denied"):
            publish(Opened(), outcome=wrong)
        with pytest.raises(ValueError, match=r"bind\(outcome=...\) must be one of success, failure, denied"):
            bind(outcome="won").__enter__()
        publish(Opened())

    assert said() == [(None, None)]


def test_a_class_with_another_outcome_is_an_error_of_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UserDeleted, "event_outcome", "gone")

    (error,) = check_outboxes()

    assert error.id == "outbox.E032"
    assert "UserDeleted.event_outcome is 'gone'" in error.msg
    assert "success, failure, denied" in (error.hint or "")


# --- Lean outboxes -------------------------------------------------------------------------------------------------


class OfItself(Event):
    """Says it where PostgreSQL cannot run it."""

    email: str

    @property
    def event_target(self) -> str:
        return "user:7"


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"event": OfItself}, "OfItself computes its event_target or event_outcome"),
        ({"event_target": "user"}, "event_target 'user' has no path in braces"),
        ({"event_target": "user:{"}, "has no path in braces"),
        ({"event_target": "user:{user__shoe_size}"}, "event_target: 'user__shoe_size' leads nowhere"),
        ({"event_target": "user:{user__created_at}"}, "event_target: 'user__created_at' is a DateTimeField"),
    ],
)
def test_a_lean_target_that_names_nothing_is_refused_by_the_check(attributes: dict[str, Any], why: str) -> None:
    (problem, *_) = problems_of(lean(**{"event": Renamed, **attributes}))

    assert problem.id == "outbox.E006"
    assert why in problem.msg


def test_a_lean_target_may_be_any_text_with_paths() -> None:
    assert list(problems_of(lean(Renamed, event_target="user {user__email} ({user_id}), {{}}"))) == []


# --- Stored --------------------------------------------------------------------------------------------------------


def test_both_are_columns_of_the_event_log(store: Store, event_log: EventLog) -> None:
    user_id = _created("ada").pk
    create_users(1, prefix="sql")
    UpdateUser().execute(user_id, UpdateUserRequest(first_name="Augusta"))
    with transaction.atomic(), bind(target="nobody", outcome="failure"):
        OutboxUser.objects.create(user_id=user_id)
        publish(Opened())
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version)"
            " VALUES ('t', now(), '', 1)"
        )

    assert deliver(sealed(), store) is Delivery.ACKED

    stored = {(event_type, *told) for event_type, *told in event_log.told()}
    assert stored == {
        ("user_created", f"user:{user_id}", "success"),
        ("user_created", f"user:{User.objects.get(email='sql1@example.com').pk}", "success"),
        ("user_updated", f"user:{user_id}", "success"),
        ("opened", "nobody", "failure"),
        ("t", "", ""),
    }
    (streamed, *_) = store.stream("user_created")
    assert (
        streamed.event_context == UserCreated(email="ada@b.co", first_name="Augusta", last_name="B").model_dump_json()
    )
    assert streamed.added["outcome"] == "success"


def test_the_sample_says_who_failed_and_what_was_denied() -> None:
    root = superuser(password="correct horse")
    client = Client()
    for _ in range(5):
        client.post("/admin/login/", {"username": "ada@b.co", "password": "wrong"})
    client.post("/admin/login/", {"username": "root@example.com", "password": "correct horse"})
    DeleteUser().execute(root.pk, by=root)

    rows = OutboxEvent.objects.order_by("id")
    found = [(row.event_type, (row.bound or {})["target"], (row.bound or {})["outcome"]) for row in rows]

    name = found[0][1]
    assert name.startswith("user_name:")
    assert "ada" not in name
    assert found == [
        *[("user_login_failed", name, "failure")] * 4,
        ("user_login_failed", name, "denied"),
        ("user_logged_in", f"user:{root.pk}", "success"),
        ("user_refused", f"user:{root.pk}", "denied"),
    ]


def _created(name: str) -> User:
    user = CreateUser().execute(CreateUserRequest(email=f"{name}@b.co", first_name="A", last_name="B")).result
    assert user is not None
    return user
