"""The Event base class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import pytest
from pydantic import Secret, SecretStr, ValidationError

from tests.unit.outboxes import frozen
from towpath import Event
from towpath.outbox import models, registry
from towpath.outbox.event import Hashed, hashed
from towpath.outbox.registry import installed_events

if TYPE_CHECKING:
    from pytest_django import Settings

    from tests.knobs import Knobs


class UserDeactivated(Event):
    reason: str


class HTTPRequestSent(Event):
    version: ClassVar[int] = 3


class OrderV2Placed(Event):
    event_type: ClassVar[str] = "order_placed"


class OrderV2PlacedAbroad(OrderV2Placed):
    """A subclass of a named event has a name of its own."""


class SentA(Event):
    pass


class AddressSeen(Event):
    ip: Hashed[str]


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (UserDeactivated, "user_deactivated"),
        (HTTPRequestSent, "http_request_sent"),
        (OrderV2Placed, "order_placed"),
        (OrderV2PlacedAbroad, "order_v2_placed_abroad"),
        (SentA, "sent_a"),
    ],
)
def test_the_type_is_the_class_name_in_snake_case_unless_it_is_given(event: type[Event], name: str) -> None:
    assert event.event_type == name


def test_the_version_is_one_unless_it_is_given() -> None:
    assert (UserDeactivated.version, HTTPRequestSent.version) == (1, 3)


def test_type_and_version_are_not_in_the_context() -> None:
    assert UserDeactivated(reason="asked for").model_dump_json() == '{"reason":"asked for"}'


def test_an_event_takes_no_unknown_field_and_does_not_change() -> None:
    with pytest.raises(ValidationError, match="extra"):
        UserDeactivated.model_validate({"reason": "", "extra": 1})
    event = UserDeactivated(reason="")
    with pytest.raises(ValidationError, match="frozen"):
        event.reason = "another"  # type: ignore[misc]


def test_without_a_key_of_its_own_a_value_is_hashed_with_the_secret_key(settings: Settings, knobs: Knobs) -> None:
    knobs(event_hash_key="")
    settings.SECRET_KEY = "the project's"
    by_default = AddressSeen(ip="127.0.0.1").model_dump_json()
    knobs(event_hash_key="the project's")
    by_its_own = AddressSeen(ip="127.0.0.1").model_dump_json()
    knobs(event_hash_key="another")

    assert by_default == by_its_own
    assert by_default != AddressSeen(ip="127.0.0.1").model_dump_json()


@pytest.mark.filterwarnings("ignore:Field name:UserWarning")
@pytest.mark.parametrize("name", ["version", "event_type", "event_target", "event_outcome"])
def test_a_field_cannot_have_the_name_of_what_every_event_has(name: str) -> None:
    """`version: int` would be stored as the event's `metadata_version`."""
    with pytest.raises(TypeError, match=f"Released: a field cannot be called {name}"):
        type("Released", (Event,), {"__module__": __name__, "__annotations__": {name: int}})


@pytest.mark.parametrize(
    ("name", "value"), [("event_type", ""), ("event_type", 7), ("version", "2"), ("version", True), ("version", 1.5)]
)
def test_type_and_version_of_a_class_are_what_the_log_can_hold(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"Released.{name} must be"):
        type("Released", (Event,), {"__module__": __name__, "__annotations__": {name: ClassVar[Any]}, name: value})


@pytest.mark.parametrize("name", ["event_target", "event_outcome"])
def test_a_method_in_place_of_a_property_is_refused(name: str) -> None:
    def said(_event: Event) -> str:
        return "success"

    with pytest.raises(TypeError, match=rf"Paid\.{name} is a method: write @property above it"):
        type("Paid", (Event,), {"__module__": __name__, name: said})
    for well in (property(said), "success", None):
        type("Paid", (Event,), {"__module__": __name__, "__annotations__": {name: ClassVar[Any]}, name: well})


V = TypeVar("V")


class Changed(Event, Generic[V]):
    event_type: ClassVar[str] = "thing_changed"
    version: ClassVar[int] = 4

    value: V


class Moved(Event, Generic[V]):
    value: V


class PriceChanged(Changed[int]):
    pass


def test_a_form_of_a_generic_event_has_the_type_that_the_event_gives() -> None:
    form = Changed[str]

    assert (form.event_type, form.version) == ("thing_changed", 4)
    assert PriceChanged.event_type == "price_changed"
    assert Moved[int].event_type == "moved[int]"


def test_a_generic_event_and_its_form_are_one_entry_of_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    form = Changed[str]
    # Not every event of this module: one that was refused when it was defined is there until it is collected.
    monkeypatch.setattr(registry, "_app_of", lambda event: event if event in {Changed, form, PriceChanged} else None)

    assert installed_events() == [PriceChanged, form]


def test_a_form_of_a_generic_event_goes_where_the_event_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    of_all, of_prices = frozen(events=(Changed,)), frozen(events=(Changed[int],))
    monkeypatch.setattr(models, "all_outboxes", lambda: {"a": of_all, "b": of_prices})
    outbox_of = models.outbox_of.__wrapped__

    assert outbox_of(Changed[str]) is outbox_of(Changed) is of_all
    assert outbox_of(Changed[int]) is of_prices
    assert outbox_of(PriceChanged) is outbox_of(Moved[int]) is models.OutboxEvent


class KeyUsed(Event):
    key: Hashed[SecretStr]
    number: Hashed[Secret[int]]


def test_a_hashed_secret_is_the_hash_of_what_it_hides() -> None:
    """As text, all secrets are the same asterisks."""
    context = KeyUsed(key=SecretStr("k"), number=Secret(7)).model_dump()

    assert context == {"key": hashed("k"), "number": hashed("7")}
