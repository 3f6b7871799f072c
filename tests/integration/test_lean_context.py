"""PostgreSQL writes the context of a lean outbox byte for byte as pydantic would dump the event."""

from __future__ import annotations

import datetime as dt
import random
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, models, transaction
from django.test.utils import isolate_apps

from towpath import Event
from towpath.outbox.checks import problems_of
from towpath.outbox.models import LeanOutbox

UTC = dt.UTC


class Everything(Event):
    text: str
    text_or_none: str | None
    number: int
    number_or_none: int | None = None
    flag: bool
    flag_or_none: bool | None
    day: dt.date
    day_or_none: dt.date | None
    time: dt.datetime
    time_or_none: dt.datetime | None
    key: uuid.UUID
    key_or_none: uuid.UUID | None


class Nothing(Event):
    pass


with isolate_apps("backend.users"):

    class Thing(models.Model):
        text = models.TextField()
        text_or_none = models.CharField(max_length=500, null=True)  # noqa: DJ001 - NULL is what is tested
        number = models.BigIntegerField()
        number_or_none = models.SmallIntegerField(null=True)
        flag = models.BooleanField()
        flag_or_none = models.BooleanField(null=True)
        day = models.DateField()
        day_or_none = models.DateField(null=True)
        time = models.DateTimeField()
        time_or_none = models.DateTimeField(null=True)
        key = models.UUIDField()
        key_or_none = models.UUIDField(null=True)

        class Meta:
            app_label = "users"

    class OutboxThing(LeanOutbox):
        thing = models.ForeignKey(Thing, on_delete=models.PROTECT, related_name="+")

        event = Everything
        event_date_time = "thing__time"
        event_context = {name: f"thing__{name}" for name in Everything.model_fields}

        class Meta(LeanOutbox.Meta):
            app_label = "users"

    class OutboxNothing(LeanOutbox):
        at = models.DateTimeField()

        event = Nothing
        event_date_time = "at"
        event_context = {}

        class Meta(LeanOutbox.Meta):
            app_label = "users"


ORDINARY: dict[str, Any] = {
    "text": "",
    "text_or_none": None,
    "number": 0,
    "number_or_none": None,
    "flag": False,
    "flag_or_none": None,
    "day": dt.date(2026, 11, 24),
    "day_or_none": None,
    "time": dt.datetime(2026, 11, 24, 6, 30, tzinfo=UTC),
    "time_or_none": None,
    "key": uuid.UUID(int=0),
    "key_or_none": None,
}

TEXTS = [
    *(chr(code) for code in range(1, 0x120)),
    "\\",
    '\\"',
    "\\u0000",
    "\\n",
    "\u2028\u2029",
    "\ufeff",
    "\ufffd\uffff",
    "\U0010ffff",
    "😀👩‍👩‍👧",
    "e\u0301\u202e",
    "null",
    "NULL",
    "\\N",
    " ",
    "</script>&amp;",
    "%s %(a)s {}",
    "".join(map(chr, range(1, 0x100))),
]
NUMBERS = [0, 1, -1, 2**31, -(2**63), 2**63 - 1]
TIMES = [
    dt.datetime(2026, 11, 24, 6, 30, 1, microsecond, tzinfo=UTC) for microsecond in (0, 1, 10, 120_000, 999_999)
] + [
    dt.datetime(1, 1, 1, tzinfo=UTC),
    dt.datetime(999, 12, 31, 23, 59, 59, 1, tzinfo=UTC),
    dt.datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
]
DAYS = [dt.date(1, 1, 1), dt.date(999, 2, 3), dt.date(2024, 2, 29), dt.date(9999, 12, 31)]
CASES: list[dict[str, Any]] = [
    {},
    {name: value for name, value in ORDINARY.items() if value is not None}
    | {"text_or_none": "", "number_or_none": -7, "flag": True, "flag_or_none": True}
    | {"day_or_none": DAYS[2], "time_or_none": TIMES[3], "key_or_none": uuid.UUID(int=2**128 - 1)},
    *({"text": text, "text_or_none": text} for text in TEXTS),
    *({"number": number} for number in NUMBERS),
    *({"time": time, "time_or_none": time} for time in TIMES),
    *({"day": day, "day_or_none": day} for day in DAYS),
]


@pytest.fixture
def tables() -> Iterator[None]:
    """The tables, in a transaction that is rolled back."""
    with transaction.atomic():
        with connection.schema_editor() as editor:
            for model in (Thing, OutboxThing, OutboxNothing):
                editor.create_model(model)
        yield
        transaction.set_rollback(True)


def stored_contexts(outbox: type[LeanOutbox]) -> list[str]:
    return list(outbox._base_manager.order_by("id").values_list(outbox.event_columns()["event_context"], flat=True))


@pytest.mark.parametrize("time_zone", ["UTC", "Asia/Kathmandu"])
@pytest.mark.usefixtures("tables")
def test_values_of_every_supported_type_are_written_as_pydantic_does(time_zone: str) -> None:
    assert list(problems_of(OutboxThing)) == []
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL TimeZone = %s", [time_zone])
    chance = random.Random(20261124)
    alphabets = [range(1, 0x80), range(0x80, 0xD800), range(0xE000, 0x110000)]
    random_texts = ["".join(chr(chance.choice(chance.choice(alphabets))) for _ in range(80)) for _ in range(200)]
    cases = [{**ORDINARY, **case} for case in [*CASES, *({"text": text} for text in random_texts)]]
    things = Thing._base_manager.bulk_create(Thing(**case) for case in cases)
    OutboxThing.objects.bulk_create(OutboxThing(thing=thing) for thing in things)

    for case, context in zip(cases, stored_contexts(OutboxThing), strict=True):
        assert context == Everything(**case).model_dump_json()


@pytest.mark.usefixtures("tables")
def test_an_event_without_fields_is_an_empty_object() -> None:
    assert list(problems_of(OutboxNothing)) == []
    times: list[dict[str, Any]] = [{"at": time} for time in TIMES[:1]]
    OutboxNothing.objects.bulk_create(OutboxNothing(**time) for time in times)

    assert stored_contexts(OutboxNothing) == [Nothing().model_dump_json()] == ["{}"]
