"""A lean outbox takes only events that PostgreSQL writes as pydantic does, byte for byte."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Annotated, Any

import pytest
from django.db import models
from pydantic import AfterValidator, ConfigDict, EmailStr, Field, StringConstraints, computed_field, model_serializer

from tests.unit.outboxes import lean
from towpath import Event
from towpath.outbox.checks import problems_of
from towpath.outbox.event import Hashed, Sensitive
from towpath.outbox.models import Outbox


class EveryType(Event):
    text: str
    text_or_none: str | None = None
    short: Annotated[str, Field(min_length=1, max_length=10, pattern="^a")] = "a"
    number: int
    positive: Annotated[int, Field(ge=1)]
    flag: bool
    flag_or_none: bool | None
    day: dt.date
    time: dt.datetime
    key: uuid.UUID


def wide(event: type[Event], **paths: str) -> type[Outbox]:
    """A lean outbox with a column of every sort."""
    return lean(
        event,
        event_context={name: paths.get(name, name) for name in event.model_fields},
        text=models.TextField(),
        text_or_none=models.CharField(max_length=9, null=True),
        short=models.SlugField(),
        number=models.SmallIntegerField(),
        positive=models.PositiveBigIntegerField(),
        flag=models.BooleanField(),
        flag_or_none=models.BooleanField(null=True),
        day=models.DateField(),
        time=models.DateTimeField(),
        key=models.UUIDField(),
        amount=models.DecimalField(max_digits=9, decimal_places=2),
        ratio=models.FloatField(),
        data=models.JSONField(),
        length=models.DurationField(),
        secret=_Encrypted(),
    )


class _Encrypted(models.TextField[Any, Any]):
    """Holds another text than its value."""

    def from_db_value(self, value: str, *_: object) -> str:
        return value[::-1]


def test_the_types_that_postgresql_writes_as_pydantic_does_are_accepted() -> None:
    assert list(problems_of(wide(EveryType))) == []
    assert list(problems_of(wide(EveryType, number="id", positive="user", text="user__email"))) == []
    assert list(problems_of(wide(EveryType, number="user_id", positive="user__pk"))) == []


def _stripped(value: str) -> str:
    return value.strip()


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (float, "ratio"),
        (int | float, "number"),
        (Any, "text"),
        (dict[str, str], "data"),
        (dt.timedelta, "length"),
        (bytes, "text"),
        (EmailStr, "text"),
        (Annotated[str, AfterValidator(_stripped)], "text"),
        (Annotated[str, StringConstraints(to_lower=True)], "text"),
        (Annotated[str, Field(strict=True)] | list[str], "text"),
        (Decimal, "amount"),
    ],
)
def test_a_type_that_postgresql_writes_otherwise_is_refused(kind: Any, path: str) -> None:
    event = type("Odd", (Event,), {"__module__": __name__, "__annotations__": {"value": kind}})

    (problem,) = problems_of(wide(event, value=path))

    assert problem.id == "outbox.E006"
    assert "Odd.value has a type that PostgreSQL may write differently from pydantic" in problem.msg
    assert "str, int, bool, date, datetime, UUID" in (problem.hint or "")


@pytest.mark.parametrize(
    ("kind", "path", "text"),
    [
        (str, "number", "SmallIntegerField"),
        (int, "flag", "BooleanField"),
        (bool, "number", "SmallIntegerField"),
        (dt.date, "time", "DateTimeField"),
        (dt.datetime, "day", "DateField"),
        (str, "key", "UUIDField"),
        (int, "ratio", "FloatField"),
        (str, "secret", "_Encrypted"),
        (bool, "flag_or_none", "can be NULL, but the event's field cannot be None"),
    ],
)
def test_a_column_whose_values_are_written_otherwise_is_refused(kind: Any, path: str, text: str) -> None:
    event = type("Odd", (Event,), {"__module__": __name__, "__annotations__": {"value": kind}})

    (problem,) = problems_of(wide(event, value=path))

    assert problem.id == "outbox.E006"
    assert text in problem.msg


class WithSecrets(Event):
    email: Sensitive[str]
    name: Hashed[str]
    nickname: Sensitive[str] | None


class WithSerializer(Event):
    email: str

    @model_serializer
    def _dump(self) -> dict[str, str]:
        return {}


class WithComputedField(Event):
    email: str

    @computed_field
    def domain(self) -> str:
        return self.email.partition("@")[2]


class WithConfiguration(Event):
    model_config = ConfigDict(str_to_lower=True)

    email: str


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (WithSecrets, "masks or hashes email, name, nickname, which SQL cannot do"),
        (WithSerializer, "serializers"),
        (WithComputedField, "computed fields"),
        (WithConfiguration, "model_config"),
    ],
)
def test_a_lean_event_that_is_more_than_its_fields_is_refused(event: type[Event], text: str) -> None:
    outbox = lean(event, event_context=dict.fromkeys(event.model_fields, "user__email"))

    (problem,) = problems_of(outbox)

    assert problem.id == "outbox.E006"
    assert text in problem.msg
    assert "FrozenOutbox" in (problem.hint or "")


@pytest.mark.parametrize("option", [{"exclude": True}, {"exclude_if": bool}])
def test_a_field_that_pydantic_leaves_out_is_refused(option: dict[str, Any]) -> None:
    """PostgreSQL would store it."""

    class Partly(Event):
        text: str
        short: str = Field(**option)

    (problem,) = problems_of(wide(Partly))

    assert problem.id == "outbox.E006"
    assert "Partly does not store short (exclude), but PostgreSQL would" in problem.msg
