"""What is stored of an event: the bytes that pydantic dumps, or an error that says why not."""

from __future__ import annotations

import hmac
import json
from hashlib import sha256
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, field_serializer
from pytest_django import Settings

from tests.knobs import Knobs
from towpath import Event
from towpath.outbox.errors import EventNotStorable, EventTooLarge
from towpath.outbox.event import MASK, Hashed, Sensitive, stored_context


def text_of(event: Event) -> str:
    return stored_context(event, most_bytes=1_000_000)


class Noted(Event):
    text: str


class Anything(Event):
    value: Any


class Measured(Event):
    value: float


class Card(BaseModel):
    number: Sensitive[str]


class CardAdded(Event):
    number: Sensitive[str]
    pin: Sensitive[int] | None
    email: Hashed[str]
    limit: Hashed[int] | None = None
    others: list[Sensitive[str]] = []
    notes: dict[str, Hashed[str]] = {}
    card: Card | None = None


PROTECTED = CardAdded(
    number="4111",
    pin=1234,
    email="ada@example.com",
    limit=500,
    others=["4222"],
    notes={"who": "ada"},
    card=Card(number="4333"),
)


class Broken(Event):
    value: int

    @field_serializer("value")
    def _fail(self, _value: int) -> int:
        raise KeyError("no such thing")


def hashed(value: str, *, key: str) -> str:
    return hmac.new(key.encode(), value.encode(), sha256).hexdigest()


@pytest.mark.parametrize(
    "event",
    [
        Noted(text='tab\t quote" backslash\\ é 😀 \u2028'),
        Noted(text="the words NaN and Infinity, and \\u0000 with its backslash"),
        Anything(value={"b": 1, "a": [None, True, 1.5, "NaN"]}),
        Measured(value=1e22),
    ],
)
def test_the_stored_text_is_what_pydantic_dumps(event: Event) -> None:
    assert text_of(event) == event.model_dump_json()


def test_an_event_of_the_largest_size_is_stored_and_a_byte_more_is_not() -> None:
    most = len('{"text":""}') + 10

    assert stored_context(Noted(text="x" * 10), most_bytes=most)
    assert stored_context(Noted(text="é" * 5), most_bytes=most)
    with pytest.raises(EventTooLarge, match=r"Noted is 22 bytes; EVENT_CONTEXT_MAX_BYTES allows 21"):
        stored_context(Noted(text="x" * 11), most_bytes=most)
    with pytest.raises(EventTooLarge, match="Noted"):
        stored_context(Noted(text="é" * 6), most_bytes=most)


def test_sixteen_mebibytes_are_allowed_unless_it_is_set_otherwise(settings: Settings) -> None:
    assert settings.TOWPATH.event_context_max_bytes == 16 * 1024 * 1024


CIRCULAR: list[object] = []
CIRCULAR.append(CIRCULAR)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Anything(value=object()), "not a JSON value"),
        (Anything(value=b"\xff"), "not a JSON value"),
        (Anything(value=CIRCULAR), "not a JSON value"),
        (Broken(value=1), "no such thing"),
        (Anything(value=float("nan")), "contains NaN"),
        (Anything(value=[{"deep": float("-inf")}]), "contains -Infinity"),
        (Anything(value="a\ud800b"), "surrogate"),
        (Anything(value={"a\udfff": 1}), "surrogate"),
        (Noted.model_construct(text="\ud800"), "surrogate"),
        (Noted(text="a\x00b"), "NUL"),
        (Anything(value={"a\x00b": 1}), "NUL"),
        (Anything(value="\\\x00"), "NUL"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_the_event_s_name_and_the_reason(event: Event, reason: str) -> None:
    with pytest.raises(EventNotStorable, match=f"(?s){type(event).__name__} cannot be stored: .*{reason}"):
        text_of(event)


def test_a_number_that_is_none_is_refused_when_the_event_is_made() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValidationError, match="finite"):
            Measured(value=value)


def test_protected_values_are_masked_and_hashed_wherever_they_are(knobs: Knobs) -> None:
    knobs(event_hash_key="a key")

    assert json.loads(text_of(PROTECTED)) == {
        "number": MASK,
        "pin": MASK,
        "email": hashed("ada@example.com", key="a key"),
        "limit": hashed("500", key="a key"),
        "others": [MASK],
        "notes": {"who": hashed("ada", key="a key")},
        "card": {"number": MASK},
    }


def test_protected_values_are_in_no_text_that_shows_the_event() -> None:
    assert CardAdded.protected_fields() == [*CardAdded.model_fields]
    fields = ("number", "pin", "email", "limit", "others", "notes", "card")
    assert repr(PROTECTED) == f"CardAdded({', '.join(f'{name}=***' for name in fields)})"
    assert str(PROTECTED) == " ".join(f"{name}=***" for name in fields)
    assert repr(Noted(text="seen")) == "Noted(text='seen')"


def test_a_protected_value_that_is_missing_stays_missing() -> None:
    stored = json.loads(text_of(CardAdded(number="1", pin=None, email="x")))

    assert (stored["pin"], stored["limit"]) == (None, None)


def test_equal_values_have_equal_hashes_and_another_key_gives_others(knobs: Knobs) -> None:
    def stored(email: str) -> str:
        return str(json.loads(text_of(CardAdded(number="1", pin=None, email=email)))["email"])

    knobs(event_hash_key="one")
    first = stored("ada@example.com")

    assert stored("ada@example.com") == first
    assert stored("bob@example.com") != first
    knobs(event_hash_key="two")
    assert stored("ada@example.com") != first


def test_the_error_of_a_bad_value_does_not_show_the_value() -> None:
    with pytest.raises(ValidationError) as error:
        CardAdded.model_validate({"number": ["4111-secret"], "pin": None, "email": "x"})

    assert "number" in str(error.value)
    assert "4111" not in str(error.value)
