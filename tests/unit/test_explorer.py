"""What the explorer makes of events: summaries, cells, facets, bars, links. No store is asked for it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.eventlog.paging import Histogram
from towpath.eventlog.query import parse
from towpath.eventlog.search import Bar, FoundEvent, FoundEvents, Position
from towpath.eventlog.stored import StoredEvent
from towpath.explorer import columns
from towpath.explorer.bars import MOST_BARS, as_json, step
from towpath.explorer.facets import FIRST_VALUES, facets
from towpath.explorer.formats import exact_json
from towpath.explorer.links import place, position
from towpath.explorer.rows import rows
from towpath.explorer.state import State
from towpath.explorer.summary import decoder, members, plain_text, summary

AT = datetime(2026, 11, 25, 21, 42, 7, 318204, tzinfo=UTC)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


def found(context: str, *, event_type: str = "login", at: datetime = AT, more: int = 0, **added: str) -> FoundEvent:
    event = StoredEvent(
        event_type=event_type,
        event_date_time=at,
        environment="production",
        event_context=context,
        metadata_version=1,
        outbox="outbox_event",
        outbox_id=7,
        window_id=UUID(int=1),
        written_at=at,
        added={"actor": "", "request_id": "", "ip": "", "target": "", "outcome": ""} | added,
    )
    return FoundEvent(event, len(context) + more)


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ('{"amount":12900,"currency":"EUR"}', [("amount", "12900"), ("currency", "EUR")]),
        ('{"id":9007199254740993,"at":1.10}', [("id", "9007199254740993"), ("at", "1.10")]),
        ('{"changes":{"is_staff":{"old":false,"new":true}}}', [("changes.is_staff", "false → true")]),
        ('{"a":{"b":{"c":{"d":{"e":1}}}},"f":[1,2,3,4]}', [("a.b.c.d", "{1}"), ("f", "4 items")]),
        ('{"a":null,"b":"x\\ny","c":{}}', [("a", "null"), ("b", "x y"), ("c", "{0}")]),
        # Cut: the last value may have lost its end.
        ('{"a":1,"b":12', [("a", "1")]),
        ('{"a":1,"b":"tex', [("a", "1")]),
        ("[1,2]", []),
        ("not json", []),
        ("", []),
    ],
)
def test_a_summary_is_the_first_values_with_their_names(context: str, expected: list[tuple[str, str]]) -> None:
    assert summary(context) == expected


def test_a_context_of_any_depth_has_a_summary() -> None:
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]

    assert plain_text(deep) == "1 item"
    assert plain_text([[["a"]], []]) == "a, "
    assert exact_json({"a": deep}) == '{"a":' + "[" * 5_001 + "]" * 5_001 + "}"


@given(json_values)
def test_a_value_is_written_as_json_whatever_it_holds(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    assert exact_json(decoder.decode(text)) == text


@given(st.dictionaries(st.text(), json_values, max_size=5), st.integers(0, 200))
def test_of_a_context_that_was_cut_the_beginning_is_read(context: dict[str, object], cut: int) -> None:
    text = json.dumps(context)

    whole, part = dict(members(text)), dict(members(text[:cut]))

    assert list(whole) == list(context)
    assert list(part.items()) == list(whole.items())[: len(part)]
    assert all(len(shown) <= 121 for _, shown in summary(text))


def test_a_row_has_the_columns_of_the_state_and_says_when_a_day_begins() -> None:
    state = replace(State(), chosen=columns.read("type,outcome,context.user.id,context.gone,summary", ()))
    events = [
        found('{"user":{"id":9007199254740993}}', outcome="denied"),
        found('{"user":', at=AT - timedelta(days=1), more=9000),
    ]

    first, second = rows(events, state, after=None)

    assert (first.day, first.second, first.fraction) == ("Wed 25 Nov", "21:42:07", "318204")
    assert (second.day, second.date) == ("Tue 24 Nov", "Tue 24 Nov")
    assert [(cell.kind, cell.text, cell.look) for cell in first.cells[:4]] == [
        ("type", "login", ""),
        ("outcome", "denied", "bad"),
        ("value", "9007199254740993", ""),
        ("value", "", ""),
    ]
    assert first.cells[3].missing == ""
    assert "open the event" in second.cells[3].missing
    (continued,) = rows(events[:1], state, after=Position(AT, "outbox_event", 9))
    assert (continued.day, continued.date) == ("", "Wed 25 Nov")


def test_facets_count_the_sample_and_lead_to_a_narrower_page() -> None:
    sample = [
        *(
            found(json.dumps({"currency": "EUR", "id": n, "vip": True}), event_type="paid", actor="job:x")
            for n in range(6)
        ),
        *(found('{"currency":"CHF","vip":false}', event_type="paid", actor="job:x") for _ in range(2)),
        found("{}", event_type="login", actor="user:7"),
    ]
    state = replace(State(), text="type:paid", query=parse("type:paid"))

    by_name = {facet.name: facet for facet in facets(FoundEvents.of(sample), state)}

    assert list(by_name) == ["type", "actor", "context.currency", "context.vip"]
    paid, login = by_name["type"].first
    assert (paid.text, paid.count, paid.is_on, paid.url) == ("paid", "8", True, "?")
    assert (login.is_on, login.url, login.without_url) == (
        False,
        "?q=type%3Apaid%2Clogin",
        "?q=type%3Apaid+-type%3Alogin",
    )
    assert [(one.written, one.width) for one in by_name["context.currency"].first] == [("EUR", 20), ("CHF", 7)]
    assert by_name["context.vip"].first[0].url == "?q=type%3Apaid+context.vip%3Atrue"


def test_many_values_are_behind_a_line_that_says_how_many() -> None:
    sample = [found("{}", actor=f"user:{n}") for n in range(60)]

    (_, actor) = facets(FoundEvents.of(sample), State())

    assert len(actor.first) == FIRST_VALUES
    assert len(actor.more) == 40 - FIRST_VALUES
    assert actor.is_cut


@given(st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=100_000)))
def test_a_period_never_has_too_many_bars(length: timedelta) -> None:
    assert 0 < length / step(length) <= MOST_BARS


def test_a_day_has_bars_of_a_quarter_of_an_hour() -> None:
    assert step(timedelta(hours=24)) == timedelta(minutes=15)


def test_bars_name_each_type_once() -> None:
    bars = Histogram([Bar(AT, "b", 2), Bar(AT, "a", 1)], AT, is_complete=False)

    assert as_json(bars) == {
        "types": ["a", "b"],
        "bars": [[AT.timestamp(), 1, 2], [AT.timestamp(), 0, 1]],
        "back_to": AT.timestamp(),
        "is_complete": False,
    }


positions = st.builds(
    Position,
    st.datetimes(datetime(1900, 1, 2), datetime(2299, 12, 30), timezones=st.just(UTC)),  # noqa: DTZ001 - its bounds
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    st.integers(0, 2**63 - 1),
)


@given(positions)
def test_the_place_of_an_event_survives_a_url(where: Position) -> None:
    from urllib.parse import unquote

    assert position(unquote(place(where))) == where


@given(st.text())
def test_a_damaged_place_is_none(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whichever it is
        position(f"x{text}")
