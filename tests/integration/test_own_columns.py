"""Columns that an outbox adds: what publish() puts into them, and the event log's columns of the same names."""

from __future__ import annotations

import enum
import json
import traceback
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, ClassVar

import pytest
from django.contrib.postgres.fields import ArrayField, IntegerRangeField
from django.db import connection, models, transaction
from django.test.utils import isolate_apps
from pydantic import ConfigDict, Field, SecretStr, computed_field

from backend.users.events import UserUpdated
from backend.users.models import User
from backend.users.use_cases import CreateUser, CreateUserRequest
from tests.integration.rows import write_events
from tests.integration.windows import sealed
from tests.knobs import Knobs
from tests.unit.outboxes import frozen
from towpath import Event, publish, publish_many
from towpath.eventlog.columns import TEXT, Column, FromEvent, Kind
from towpath.flow import load
from towpath.outbox import publishing
from towpath.outbox.checks import problems_of
from towpath.outbox.errors import EventNotStorable
from towpath.outbox.models import FrozenOutbox, OutboxEvent


def test_a_column_is_filled_by_the_outboxes_that_have_it_and_has_its_default_in_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given two columns of the project's own
    more = (Column("user_id", Kind.WHOLE_NUMBER, FromEvent()), Column("bound", Kind.TEXT, FromEvent()))
    monkeypatch.setattr(OutboxEvent, "own_columns", lambda: ("bound",))

    # And a lean event, a frozen one, and one that knows nothing of users (and has NULL for the other)
    user = CreateUser().execute(CreateUserRequest(email="a@b.co", first_name="A", last_name="B")).result
    assert isinstance(user, User)
    with transaction.atomic():
        publish(UserUpdated(user_id=77, changes={}))
    write_events(["{}"])

    rows = load.load(sealed(), environment="test", max_bytes=None, own_columns=more).rows.decode().splitlines()

    assert sorted((line.split("\t")[0], *line.split("\t")[-2:]) for line in rows) == [
        ("outbox_event", "0", ""),
        ("outbox_user", str(user.pk), ""),
        ("outbox_user_change", "77", ""),
    ]


# --- Values that a column cannot hold, or would show otherwise ---------------------------------------------------


class Status(enum.Enum):
    PAID = "paid"


class Level(enum.IntEnum):
    HIGH = 3


class Anything(Event):
    """An event of any values; each is given by a test."""

    model_config = ConfigDict(serialize_by_alias=True)

    text: Any = "abc"
    long_text: Any = ""
    small: Any = Field(1, alias="smallNumber")
    natural: Any = 1
    flag: Any = True
    amount: Any = "1.25"
    ratio: Any = 0.5
    day: Any = date(2026, 11, 26)
    moment: Any = datetime(2026, 11, 26, 1, 2, 3, tzinfo=UTC)
    clock: Any = time(1, 2)
    key: Any = uuid.UUID(int=7)
    chosen: Any = "a"
    document: Any = 1
    numbers: Any = [1]
    maybe: Any = None
    user_id: Any = None

    @computed_field
    def doubled(self) -> str:
        return f"{self.text}{self.text}"


with isolate_apps("backend.users"):

    class OutboxAnything(FrozenOutbox):
        events = (Anything,)

        text = models.CharField(max_length=3)
        long_text = models.TextField()
        small = models.SmallIntegerField()
        natural = models.PositiveIntegerField()
        flag = models.BooleanField()
        amount = models.DecimalField(max_digits=6, decimal_places=2)
        ratio = models.FloatField()
        day = models.DateField()
        moment = models.DateTimeField()
        clock = models.TimeField()
        key = models.UUIDField()
        chosen = models.CharField(max_length=9, choices=[("a", "A"), ("b", "B")])
        document = models.JSONField()
        numbers = ArrayField(models.SmallIntegerField())
        maybe = models.IntegerField(null=True)
        user = models.ForeignKey(User, on_delete=models.PROTECT, null=True, related_name="+")
        doubled = models.CharField(max_length=6)
        made = models.GeneratedField(
            expression=models.functions.Upper("long_text"), output_field=models.TextField(), db_persist=True
        )

        class Meta(FrozenOutbox.Meta):
            app_label = "users"
            constraints: ClassVar[Any] = (
                *FrozenOutbox.Meta.constraints,
                models.CheckConstraint(name="not_thirteen", condition=~models.Q(natural=13)),
            )


class Judged(Event):
    """An event of values that only PostgreSQL can judge."""

    address: Any = "192.0.2.1"
    grid: Any = Field([[1, 2], [3, 4]])
    span: Any = Field([1, 2])
    indexed: Any = "abc"
    digits: Any = "12"


with isolate_apps("backend.users"):

    class OutboxJudged(FrozenOutbox):
        events = (Judged,)

        address = models.GenericIPAddressField()
        grid = ArrayField(ArrayField(models.IntegerField()))
        span = IntegerRangeField()
        indexed = models.TextField(db_index=True)
        digits = models.TextField()
        number = models.GeneratedField(
            expression=models.functions.Cast("digits", models.IntegerField()),
            output_field=models.IntegerField(),
            db_persist=True,
        )

        class Meta(FrozenOutbox.Meta):
            app_label = "users"


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The outbox's table, in a transaction that is rolled back."""
    monkeypatch.setattr(publishing, "outbox_of", lambda _event: OutboxAnything)
    with transaction.atomic():
        with connection.schema_editor() as editor:
            editor.create_model(OutboxAnything)
        yield
        transaction.set_rollback(True)


def columns(*names: str) -> list[dict[str, Any]]:
    return list(OutboxAnything.objects.order_by("id").values(*names))


@pytest.mark.usefixtures("table")
def test_values_of_every_kind_stand_in_their_columns_as_in_the_context() -> None:
    assert list(problems_of(OutboxAnything)) == []
    cases: list[dict[str, Any]] = [
        {},
        {"long_text": Status.PAID, "natural": Level.HIGH, "chosen": "b"},
        {"long_text": timedelta(seconds=90), "maybe": 7, "amount": Decimal("-1.5")},
        {"long_text": [3, 1.5, True, None], "document": {"a": [1.5, None]}, "numbers": [1, None]},
        {"long_text": 1e16, "ratio": 1e16, "amount": 3},
        {"long_text": True, "ratio": 1, "document": "text", "numbers": []},
        {"long_text": SecretStr("hidden"), "amount": 0.1, "small": "12"},
        {"long_text": 12, "moment": "2026-11-26T01:02:03.5+02:00", "key": str(uuid.UUID(int=7))},
    ]
    publish_many(Anything.model_validate(case, by_name=True) for case in cases)

    shown = columns(*(name for name in Anything.model_fields if name != "small"), "small", "event_context", "doubled")
    assert len(shown) == len(cases)
    for row in shown:
        context = json.loads(row["event_context"])
        assert context.pop("smallNumber") == row["small"] or row["small"] == 12
        for name in ("text", "chosen", "doubled", "flag", "natural", "maybe", "document", "numbers", "ratio"):
            assert row[name] == context[name], name
        text = context["long_text"]
        written = row["event_context"].partition('"long_text":')[2]
        assert row["long_text"] == text if isinstance(text, str) else written.startswith(row["long_text"] + ",")
        assert row["amount"] == Decimal(str(context["amount"]))
        assert row["moment"] == datetime.fromisoformat(context["moment"])
        assert (row["day"].isoformat(), row["clock"].isoformat()) == (context["day"], context["clock"])
        assert str(row["key"]) == context["key"]


REFUSED: list[tuple[str, Any, str]] = [
    ("text", "EURO", "at most 3 characters"),
    ("text", None, "does not allow NULL"),
    ("small", 70_000, "less than or equal to 32767"),
    ("small", -70_000, "greater than or equal to -32768"),
    ("small", 1.5, "not of the column's type"),
    ("small", True, "not of the column's type"),
    ("small", "secret", "not of the column's type"),
    ("natural", -1, "greater than or equal to 0"),
    ("natural", 2**70, "less than or equal to"),
    ("natural", 13, "not_thirteen"),
    ("flag", "yes", "not of the column's type"),
    ("flag", 1, "not of the column's type"),
    ("amount", Decimal("1.239"), "no more than 2 decimal places"),
    ("amount", Decimal("12345.6"), "no more than 4 digits before"),
    ("amount", 12345678.125, "more|digits"),
    ("ratio", "0.12345678901234567890", "more digits"),
    ("ratio", 2**53 + 1, "more digits"),
    ("day", "2026-11-26T01:02:03Z", "not of the column's type"),
    ("day", "2026-02-30", "not of the column's type"),
    ("moment", datetime(2026, 11, 26), "no time zone"),  # noqa: DTZ001 - that is what is refused
    ("moment", "2026-11-26", "no time zone"),
    ("moment", 7, "not of the column's type"),
    ("clock", time(1, 2, tzinfo=UTC), "time zone"),
    ("key", "7", "not of the column's type"),
    ("chosen", "c", "not one of the column's choices"),
    ("document", None, "does not allow NULL"),
    ("numbers", [1, 70_000], "less than or equal to 32767"),
    ("numbers", 1, "not a list"),
    ("numbers", "[1]", "not a list"),
    ("maybe", 2**31, "less than or equal to"),
    ("user_id", "somebody", "not of the column's type"),
    ("user_id", 2**63, "less than or equal to"),
]


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("name", "value", "reason", "count"),
    # More than one statement's worth is slow to build.
    [(*case, count) for case in REFUSED for count in (1, 3)] + [(*case, 2501) for case in REFUSED[:3]],
)
def test_a_value_that_its_column_cannot_hold_is_refused_and_leaves_the_transaction_as_it_was(
    name: str,
    value: Any,
    reason: str,
    count: int,
) -> None:
    bad = Anything.model_validate({name: value}, by_name=True)
    good = Anything()
    publish(good)
    events = [bad] if count == 1 else [*[good] * (count - 1), bad]

    with pytest.raises(EventNotStorable, match=rf"Anything cannot be stored.*OutboxAnything.*{reason}") as caught:
        publish(bad) if count == 1 else publish_many(events)

    assert name in str(caught.value) or name == "natural"
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    publish(good)
    assert OutboxAnything.objects.count() == 2


JUDGED: list[tuple[str, list[Any]]] = [
    ("address", ["unknown", "192.0.2.256", "", 4_000_000_007]),
    ("grid", [[[1, 2], [3]], [[], []], [[1], []]]),
    ("span", [[5, 1], [1], [2**40, 2**41], {"lower": 1}]),
    ("indexed", ["".join(chr(0x4E00 + n * n % 20_000) for n in range(5_000))]),
    ("digits", ["secret"]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in JUDGED for value in values])
def test_a_value_that_only_postgresql_can_judge_leaves_the_transaction_as_it_was(
    name: str,
    value: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publishing, "outbox_of", lambda _event: OutboxJudged)
    with transaction.atomic():
        with connection.schema_editor() as editor:
            editor.create_model(OutboxJudged)
        publish(Judged())

        with pytest.raises(EventNotStorable, match=r"Judged cannot be stored.*OutboxJudged") as caught:
            publish(Judged.model_validate({name: value}))

        assert name in str(caught.value)
        assert not value or str(value) not in "".join(traceback.format_exception(caught.value))
        publish(Judged())
        assert OutboxJudged.objects.count() == 2
        transaction.set_rollback(True)


def test_of_events_for_several_outboxes_none_is_stored_if_postgresql_refuses_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publishing, "outbox_of", lambda event: OutboxJudged if event is Judged else OutboxEvent)
    with transaction.atomic():
        with connection.schema_editor() as editor:
            editor.create_model(OutboxJudged)

        with pytest.raises(EventNotStorable, match="Judged cannot be stored"):
            publish_many([Anything(), Judged(address="unknown")])

        assert (OutboxEvent.objects.count(), OutboxJudged.objects.count()) == (0, 0)
        publish_many([Anything(), Judged()])
        assert (OutboxEvent.objects.count(), OutboxJudged.objects.count()) == (1, 1)
        transaction.set_rollback(True)


def test_columns_of_another_form_than_json_s_are_refused_by_the_check() -> None:
    class Timed(Event):
        took: timedelta
        content: bytes

    outbox = frozen(events=(Timed,), took=models.DurationField(), content=models.BinaryField())

    took, content = problems_of(outbox)

    assert took.id == content.id == "outbox.E007"
    assert "'took' is a DurationField" in took.msg
    assert "ISO 8601" in (took.hint or "")
    assert "'content' is a BinaryField" in content.msg


def test_a_field_that_the_event_does_not_store_fills_no_column() -> None:
    class Excluded(Event):
        tenant_id: int = Field(exclude=True)
        other_id: int = Field(exclude_if=lambda value: value == 1)

    outbox = frozen(events=(Excluded,), tenant_id=models.IntegerField(), other_id=models.IntegerField())

    (problem,) = problems_of(outbox)

    assert problem.id == "outbox.E007"
    assert "other_id, tenant_id, which Excluded does not store" in problem.msg
    with transaction.atomic(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "outbox_of", lambda _event: outbox)
        with pytest.raises(EventNotStorable, match=r"Excluded.*'tenant_id'.*no such value"):
            publish(Excluded(tenant_id=1, other_id=1))


@pytest.mark.usefixtures("table")
def test_an_event_that_is_nested_as_deep_as_pydantic_writes_fills_its_columns() -> None:
    nested: Any = "deep"
    for _ in range(240):
        nested = [nested]

    publish(Anything(document=nested))

    assert columns("document", "text") == [{"document": nested, "text": "abc"}]


VALUES: dict[str, list[Any]] = {
    "amount": [0, 5, -5, "1.25", "0.5"],
    "ratio": [0.0, -0.0, 5.0, 0.1, 1e-7, 999999999999999.0, 1e15, 1234567890123456.0, 1e16, 1e300, 5e-324],
    "natural": [0, 1, 12],
    "flag": [True, False],
    "moment": [datetime(1900, 1, 1, tzinfo=UTC), datetime(2299, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)],
    "day": [date(2026, 11, 26)],
    "clock": [time(1, 2)],
    "key": [uuid.UUID(int=7)],
    "long_text": ["", "1", "5.00", "1e3", "-0.0", "t", "2026-11-26 01:02:03Z", [1, 2]],
    "numbers": [[], [1, 2]],
    "document": ["7", "text", 7, 7.0, 1.5, 1e15, 1e300, True, {"a": [1]}],
}


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("kind", Kind)
def test_what_publish_takes_for_the_event_log_can_be_loaded(kind: Kind, knobs: Knobs) -> None:
    """PostgreSQL writes some values differently from Python: 5.00 for 5, and 1e+15 for 1000000000000000.0."""
    for name, value in [(name, value) for name, values in VALUES.items() for value in values]:
        column = Column(name, kind, FromEvent())
        knobs(columns=(column,))
        try:
            publish(Anything.model_validate({name: value}, by_name=True))
        except EventNotStorable:
            assert kind not in {Kind.TEXT, Kind.LOW_CARDINALITY_TEXT}
            continue

        loaded = load.value_of(column, {}, OutboxAnything.event_columns())

        assert OutboxAnything.objects.order_by("-id").values_list(loaded, flat=True)[0] is not None, (name, value)


def test_a_decimal_without_a_fraction_is_a_whole_number_of_the_event_log(knobs: Knobs, table: None) -> None:  # noqa: ARG001
    column = Column("amount", Kind.WHOLE_NUMBER, FromEvent())
    knobs(columns=(column,))

    publish(Anything(amount=Decimal(5)))
    with pytest.raises(EventNotStorable, match=r"'amount'.*not a whole number"):
        publish(Anything(amount=Decimal("5.5")))

    loaded = load.value_of(column, {}, OutboxAnything.event_columns())
    assert list(OutboxAnything.objects.values_list(loaded, flat=True)) == ["5"]


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::7"])
def test_an_address_is_in_the_event_log_as_it_is_in_the_context(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL's text of it ends in /32 or /128."""
    monkeypatch.setattr(publishing, "outbox_of", lambda _event: OutboxJudged)
    with transaction.atomic():
        with connection.schema_editor() as editor:
            editor.create_model(OutboxJudged)
        publish(Judged(address=address))

        loaded = load.value_of(Column("address", TEXT, FromEvent()), {}, OutboxJudged.event_columns())

        assert list(OutboxJudged.objects.values_list(loaded, flat=True)) == [address]
        transaction.set_rollback(True)
