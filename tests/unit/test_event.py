"""The Event base class."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
from pydantic import ValidationError

from towpath import Event
from towpath.outbox.event import Hashed

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
