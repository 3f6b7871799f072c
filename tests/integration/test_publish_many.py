"""publish_many, given times, and outboxes by event: one statement a thousand, all or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any, ClassVar

import pytest
from django.db import connection, models, transaction
from django.db.models.signals import post_save
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext, isolate_apps
from django.utils import timezone as django_timezone

from backend.users.events import Change, UserDeleted, UserUpdated
from backend.users.models import OutboxUser, OutboxUserChange, User
from tests.integration.event_log import EventLog
from tests.integration.windows import deliver, sealed
from tests.knobs import Knobs
from towpath import Event, publish, publish_many
from towpath.eventlog.store import EventStore
from towpath.flow.delivery import Delivery
from towpath.outbox import publishing
from towpath.outbox.context import bind
from towpath.outbox.errors import EventNotStorable
from towpath.outbox.event import MASK, Sensitive
from towpath.outbox.models import FrozenOutbox, OutboxEvent

LONG_AGO = datetime(2020, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)


class Paid(Event):
    amount: int
    note: str = ""


@contextmanager
def statements() -> Iterator[list[str]]:
    """The first words of each statement that is sent, savepoints included."""
    sent: list[str] = []
    with CaptureQueriesContext(connection) as queries:
        yield sent
    sent += [" ".join(query["sql"].split()[:3]) for query in queries.captured_queries]


def amounts() -> list[int]:
    rows = OutboxEvent.objects.order_by("id").values_list("event_context", flat=True)
    return [Paid.model_validate_json(context).amount for context in rows]


@transaction.atomic
def published(*events: Event, at: datetime | None = None) -> list[datetime]:
    """The times of the rows."""
    publish_many(events, at=at)
    return list(OutboxEvent.objects.order_by("id").values_list("event_date_time", flat=True))


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_up_to_a_thousand_events_are_one_statement(count: int) -> None:
    with transaction.atomic(), statements() as sent:
        publish_many(Paid(amount=n) for n in range(count))

    assert sent == ['INSERT INTO "outbox_event"']
    assert amounts() == list(range(count))


def test_more_are_a_statement_a_thousand_in_one_savepoint() -> None:
    with transaction.atomic(), statements() as sent:
        publish_many(Paid(amount=n) for n in range(2001))

    assert [line.split()[0] for line in sent] == ["SAVEPOINT", "INSERT", "INSERT", "INSERT", "RELEASE"]
    assert amounts() == list(range(2001))


def test_no_events_are_no_statement() -> None:
    with transaction.atomic(), statements() as sent:
        publish_many([])

    assert sent == []


def test_the_events_are_taken_as_they_are_inserted_and_never_all_at_once() -> None:
    # Given a stream, and a look at how much of it is taken when a statement runs
    taken = 0
    taken_at_insert: list[int] = []

    def stream() -> Iterator[Paid]:
        nonlocal taken
        for taken in range(1, 5001):
            yield Paid(amount=taken)

    def look(execute: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith("INSERT"):
            taken_at_insert.append(taken)
        return execute(sql, *rest)

    with transaction.atomic(), connection.execute_wrapper(look):
        publish_many(stream())

    # Then it is one chunk ahead at most
    assert taken_at_insert == [2000, 2000, 3000, 4000, 5000]


def test_large_events_are_fewer_to_a_statement() -> None:
    with transaction.atomic(), statements() as sent:
        publish_many(Paid(amount=n, note="x" * 3 * 1024 * 1024) for n in range(7))

    assert sum(line.startswith("INSERT") for line in sent) == 3
    assert amounts() == list(range(7))


def test_one_event_that_is_refused_leaves_none_and_a_transaction_that_goes_on() -> None:
    class Anything(Event):
        value: Any

    def stream() -> Iterator[Event]:
        yield from (Paid(amount=n) for n in range(1500))
        yield Anything(value=object())

    with transaction.atomic():
        publish(Paid(amount=-1))
        with pytest.raises(EventNotStorable, match="Anything"):
            publish_many(stream())
        with pytest.raises(EventNotStorable, match="Anything"):
            publish(Anything(value=float("nan")))

    assert amounts() == [-1]


# --- The time ----------------------------------------------------------------------------------------------------


def test_the_time_is_that_of_the_call_unless_it_is_given() -> None:
    before = django_timezone.now()
    (own,) = published(Paid(amount=1))
    assert before <= own <= django_timezone.now()

    with transaction.atomic():
        publish(Paid(amount=2), at=LONG_AGO)
    assert OutboxEvent.objects.latest("id").event_date_time == LONG_AGO


def test_many_events_have_the_time_that_is_given_for_all_or_their_own() -> None:
    own = LONG_AGO.astimezone(timezone(timedelta(hours=5, minutes=45))) - timedelta(days=1)

    with transaction.atomic():
        publish_many([Paid(amount=1), (Paid(amount=2), own)], at=LONG_AGO)

    assert list(OutboxEvent.objects.order_by("id").values_list("event_date_time", flat=True)) == [LONG_AGO, own]


def test_a_time_without_a_zone_is_refused() -> None:
    naive = datetime(2020, 1, 1)  # noqa: DTZ001 - that is the point - that is what is refused
    with transaction.atomic():
        with pytest.raises(EventNotStorable, match=r"Paid.*no time zone"):
            publish(Paid(amount=1), at=naive)
        with pytest.raises(EventNotStorable, match=r"Paid.*no time zone"):
            publish_many([(Paid(amount=1), naive)])
    assert amounts() == []


def test_what_is_no_time_is_refused() -> None:
    for at in ("2020-01-01", date(2020, 1, 1), 7):
        with transaction.atomic(), pytest.raises(EventNotStorable, match=r"Paid.*not a datetime"):
            publish(Paid(amount=1), at=at)  # type: ignore[arg-type]
    assert amounts() == []


def test_a_row_made_by_hand_has_a_time_with_a_zone_as_well() -> None:
    naive = datetime(2020, 1, 1)  # noqa: DTZ001 - that is the point
    rows = OutboxEvent.objects

    def row() -> OutboxEvent:
        return OutboxEvent(event_type="paid", event_context="{}", event_date_time=naive)

    with transaction.atomic():
        for insert in (
            lambda: rows.create(event_type="paid", event_context="{}", event_date_time=naive),
            lambda: rows.bulk_create([row()]),
            lambda: rows.bulk_create([row()], batch_size=7),
            lambda: row().save(),
        ):
            with pytest.raises(EventNotStorable, match=r"OutboxEvent: its event_date_time .* no time zone"):
                insert()
        assert not OutboxEvent.objects.exists()


def test_the_stored_time_is_the_published_one_however_late_it_is_written(
    store: EventStore, event_log: EventLog
) -> None:
    (time,) = published(Paid(amount=1))
    with transaction.atomic():
        publish(Paid(amount=2), at=LONG_AGO)

    assert deliver(sealed(), store) is Delivery.ACKED

    assert [event.event_date_time for event in event_log.events()] == [time, LONG_AGO]


# --- Outboxes of their own ---------------------------------------------------------------------------------------


def test_an_event_goes_into_the_outbox_that_names_it_with_the_columns_that_it_adds() -> None:
    deleted = UserDeleted(user_id=8, email="a@b.co", first_name="A", last_name="B")
    with transaction.atomic(), bind(actor="user:1"), statements() as sent:
        publish(UserUpdated(user_id=7, changes={"email": Change(old="a", new="b")}))
        publish_many([Paid(amount=1), deleted, Paid(amount=2)])

    first, second = OutboxUserChange.objects.order_by("id")
    said = {"actor": "user:1", "target": "user:7", "outcome": "success"}
    assert (first.event_type, first.user_id, first.bound) == ("user_updated", 7, said)
    assert (second.event_type, second.user_id) == ("user_deleted", 8)
    assert second.event_context == deleted.model_dump_json()
    assert amounts() == [1, 2]
    assert sorted(sent) == ['INSERT INTO "outbox_event"', *['INSERT INTO "outbox_user_change"'] * 2]


def test_a_column_of_an_outbox_holds_what_the_event_shows_not_what_it_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    class CardAdded(Event):
        number: Sensitive[str]
        places: list[int]

    with isolate_apps("backend.users"):

        class OutboxCard(FrozenOutbox):
            events: ClassVar[tuple[type[Event], ...]] = (CardAdded,)
            number = models.TextField()
            places = models.JSONField()

            class Meta(FrozenOutbox.Meta):
                app_label = "users"

    monkeypatch.setattr(publishing, "outbox_of", lambda _event: OutboxCard)
    with transaction.atomic():
        with connection.schema_editor() as editor:
            editor.create_model(OutboxCard)
        publish_many([CardAdded(number="4111", places=[1, 2]), CardAdded(number="4222", places=[])])
        with connection.cursor() as cursor:
            cursor.execute("SELECT number, places::text FROM users_outboxcard ORDER BY id")
            rows = cursor.fetchall()
        transaction.set_rollback(True)

    assert rows == [(MASK, "[1, 2]"), (MASK, "[]")]


# --- Rows by the ORM ---------------------------------------------------------------------------------------------


@pytest.fixture
def users() -> list[User]:
    return User.objects.bulk_create(User(email=f"{n}@example.com", first_name="A", last_name="B") for n in range(2500))


def test_rows_in_bulk_are_a_statement_a_thousand_and_know_their_ids(users: list[User]) -> None:
    with transaction.atomic(), bind(actor="job:import"), statements() as sent:
        rows = OutboxUser.objects.bulk_create(OutboxUser(user=user) for user in users)

    assert sent == ['INSERT INTO "outbox_user"'] * 3
    stored = OutboxUser.objects.order_by("id").values_list("id", "user_id", "bound")
    assert [(row.id, row.user_id, {"actor": "job:import"}) for row in rows] == list(stored)
    assert [row.user_id for row in rows] == [user.id for user in users]


def test_rows_in_bulk_arrive_in_the_store(users: list[User], store: EventStore, event_log: EventLog) -> None:
    with transaction.atomic():
        OutboxUser.objects.bulk_create(OutboxUser(user=user) for user in users)

    assert deliver(sealed(), store) is Delivery.ACKED

    assert [event.event_context for event in event_log.events()] == [
        f'{{"email":"{user.email}","first_name":"A","last_name":"B"}}'.encode() for user in users
    ]


def test_a_row_outside_a_transaction_is_refused_like_an_event(users: list[User]) -> None:
    row = OutboxUser(user=users[0])
    for insert in (
        row.save,
        lambda: OutboxUser.objects.create(user=users[0]),
        lambda: OutboxUser.objects.bulk_create([row]),
    ):
        with pytest.raises(TransactionManagementError, match=r"with transaction\.atomic\(\)"):
            insert()

    assert not OutboxUser.objects.exists()


def test_what_is_out_of_the_ordinary_is_left_to_the_orm(users: list[User]) -> None:
    # Given a receiver that wants to know of rows
    seen: list[object] = []

    def note(instance: object, **_kwargs: object) -> None:
        seen.append(instance)

    post_save.connect(note, sender=OutboxUser)
    try:
        with transaction.atomic():
            row = OutboxUser.objects.create(user=users[0])
    finally:
        post_save.disconnect(note, sender=OutboxUser)
    assert seen == [row]

    # And a value that is an expression, an id that is given, a user that is not saved yet
    with transaction.atomic():
        computed = OutboxUser.objects.create(user=users[1], bound=models.Value({"actor": "x"}, models.JSONField()))
        given = OutboxUser.objects.bulk_create([OutboxUser(id=2**40, user=users[2])])
        with pytest.raises(ValueError, match="unsaved related object"):
            OutboxUser.objects.create(user=User(email="new@example.com"))

    assert OutboxUser.objects.get(id=computed.id).bound == {"actor": "x"}
    assert OutboxUser.objects.get(id=2**40) == given[0]


def test_the_largest_size_is_a_setting(knobs: Knobs) -> None:
    knobs(event_context_max_bytes=40)

    with transaction.atomic():
        publish(Paid(amount=1))
        with pytest.raises(EventNotStorable, match="EVENT_CONTEXT_MAX_BYTES"):
            publish(Paid(amount=1, note="x" * 40))

    assert amounts() == [1]
