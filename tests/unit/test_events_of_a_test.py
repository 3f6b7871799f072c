"""The testing kit's questions about events: by class and fields, and what a failure shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from pydantic import field_serializer

from towpath import Event
from towpath.outbox.event import Hashed, Sensitive, stored_context
from towpath.testing.events import Events, FoundEvent, StoredEvents

if TYPE_CHECKING:
    from collections.abc import Sequence

NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)


class Paid(Event):
    invoice: int
    amount: Decimal = Decimal("1.50")
    note: str | None = None


class PaidAgain(Event):
    event_type = "paid"
    version = 2
    invoice: int


class Shipped(Event):
    parcel: UUID
    at: datetime
    tags: tuple[str, ...] = ()


class CardAdded(Event):
    number: Sensitive[str]
    email: Hashed[str]
    holder: str

    @field_serializer("holder")
    def _shout(self, holder: str) -> str:
        return holder.upper()


def found(event: Event, *, number: int = 1, at: datetime = NOON) -> FoundEvent:
    context = stored_context(event, most_bytes=1_000_000)
    return FoundEvent("outbox_event", number, event.event_type, event.version, at, context, {})


def events(*published: Event) -> Events:
    return Events(found(event, number=number) for number, event in enumerate(published, 1))


def invoices(one: Sequence[FoundEvent]) -> list[int]:
    return [event.context["invoice"] for event in one]


def test_events_are_found_by_class_and_by_any_of_their_fields() -> None:
    there = events(Paid(invoice=1), Paid(invoice=2, note="late"), Paid(invoice=3), PaidAgain(invoice=1))

    assert len(there.find()) == 4
    assert invoices(there.find(Paid)) == [1, 2, 3]
    assert invoices(there.find(Paid, note=None)) == [1, 3]
    assert invoices(there.find(Paid, invoice=2, note="late")) == [2]
    assert there.find(Paid, invoice=2, note="early") == []
    assert there.one(Paid, note="late").context == {"invoice": 2, "amount": "1.50", "note": "late"}
    assert there.one(PaidAgain).version == 2
    there.none(Paid, invoice=4)
    there.none(Shipped)


def test_a_value_is_asked_for_as_it_was_published() -> None:
    parcel = UUID("11111111-2222-3333-4444-555555555555")
    there = events(
        Shipped(parcel=parcel, at=NOON, tags=("a", "b")),
        CardAdded(number="4111", email="ada@example.com", holder="Ada"),
    )

    assert there.one(Shipped, parcel=parcel, at=NOON, tags=("a", "b"))
    there.none(Shipped, at=NOON + timedelta(microseconds=1))
    assert there.one(CardAdded, email="ada@example.com")
    assert there.one(CardAdded, holder="Ada")
    assert there.one(CardAdded, number="4111").context["number"] == "***"
    there.none(CardAdded, email="bob@example.com")


def test_events_come_in_the_order_of_their_times() -> None:
    late, early = found(Paid(invoice=1), at=NOON), found(Paid(invoice=2), number=2, at=NOON - timedelta(seconds=1))

    assert invoices(Events([late, early]).all()) == [2, 1]


def test_a_failed_one_lists_what_was_published() -> None:
    there = events(Paid(invoice=1), Paid(invoice=2))

    with pytest.raises(AssertionError) as none_of_it:
        there.one(Paid, invoice=3)
    with pytest.raises(AssertionError) as too_many:
        there.one(Paid)

    assert str(none_of_it.value).splitlines() == [
        "expected one Paid(invoice=3), found 0. What was published in this test:",
        '  paid version 1 {"invoice":1,"amount":"1.50","note":null} (outbox_event 1)',
        '  paid version 1 {"invoice":2,"amount":"1.50","note":null} (outbox_event 2)',
    ]
    assert str(too_many.value).startswith("expected one Paid, found 2. What was published in this test:\n")


def test_a_failed_none_lists_what_was_published() -> None:
    with pytest.raises(AssertionError, match=r"expected no Paid, found 1\. What was published in this test:\n  paid"):
        events(Paid(invoice=1)).none(Paid)
    with pytest.raises(AssertionError, match=r"expected no event, found 1\."):
        events(Paid(invoice=1)).none()


def test_a_failure_says_when_there_is_nothing_at_all() -> None:
    with pytest.raises(AssertionError, match=r"^expected one Paid, found 0\. Nothing was published in this test\.$"):
        Events().one(Paid)
    with pytest.raises(AssertionError, match=r"^expected one Paid, found 0\. Nothing was stored\.$"):
        StoredEvents().one(Paid)


@pytest.mark.parametrize("question", [Events.find, Events.one, Events.none])
def test_a_field_that_the_class_does_not_have_is_no_answer(question: object) -> None:
    assert callable(question)

    with pytest.raises(TypeError, match="Paid has no field invioce: its fields are invoice, amount, note"):
        question(events(), Paid, invioce=1)
    with pytest.raises(TypeError, match="to ask for invoice, name the event's class first"):
        question(events(), invoice=1)
