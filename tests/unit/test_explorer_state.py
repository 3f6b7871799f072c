"""The state of the explorer's page and its URL are the same thing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.http import QueryDict
from hypothesis import given
from hypothesis import strategies as st

from towpath.eventlog.columns import DECIMAL, TEXT, Column, FromContext, Kind
from towpath.eventlog.query import parse
from towpath.eventlog.query.syntax import ColumnField, Path, Query, Text
from towpath.explorer import columns, terms
from towpath.explorer.state import Between, Last, State, read
from towpath.pages.zones import UTC_ZONE, Zone, age, as_utc

OWN = (Column("tenant", TEXT, FromContext("tenant")), Column("amount", DECIMAL, FromContext("amount")))
NOW = datetime(2026, 11, 25, 22, tzinfo=UTC)
TYPE = ColumnField("event_type", Kind.TEXT)

_FIRST, _LAST = datetime(1900, 1, 2), datetime(2299, 12, 30)  # noqa: DTZ001 - as hypothesis wants its bounds
moments = st.datetimes(_FIRST, _LAST, timezones=st.just(UTC))
periods = st.one_of(
    st.builds(Last, st.from_regex(r"[1-9][0-9]{0,3}[mhd]", fullmatch=True)),
    st.tuples(moments, moments).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: Between(min(pair), max(pair))),
)
paths = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1, max_size=4
)
shown = st.one_of(
    st.sampled_from(columns.possible(OWN)),
    paths.map(lambda keys: columns.Shown(str(Path(tuple(keys))), Path(tuple(keys)))),
)
texts = st.sampled_from(["", "refund", 'actor:"Ada L"', "type:a,b -outcome:success", "(a OR b) context.x>10", "é ☃"])
states = st.builds(
    State,
    text=texts,
    period=periods,
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"]).map(Zone.named),
    chosen=st.none() | st.lists(shown, min_size=1, max_size=12, unique_by=lambda one: one.name).map(tuple),
    own=st.just(OWN),
)
anything = st.text(st.characters(), max_size=60)


@given(states)
def test_a_state_and_its_url_say_the_same(state: State) -> None:
    again, problems = read(QueryDict(state.url()[1:]), own=OWN, now=NOW)

    assert problems == []
    assert again.parameters() == state.parameters()
    assert (again.period, again.zone, again.chosen) == (state.period, state.zone, state.chosen)
    assert again.query == parse(state.text, columns=OWN)


@given(st.dictionaries(st.sampled_from(["q", "range", "since", "until", "tz", "columns"]), anything))
def test_whatever_a_url_says_there_is_a_page_and_each_problem_says_what_to_write(parameters: dict[str, str]) -> None:
    state, problems = read(parameters, own=OWN, now=NOW)

    state.url().encode()
    state.bounds(NOW)
    assert all(problem.text.encode() and problem.text[-1] in '.,"' for problem in problems)


@pytest.mark.parametrize(
    ("parameters", "field", "message"),
    [
        ({"q": "user:7"}, "q", "There is no column user. Write context.user for a path in the context"),
        ({"range": "yesterday"}, "range", "Write a number and m, h or d, such as 15m or 24h."),
        ({"range": "0h"}, "range", "This is not a range."),
        ({"until": "2026-11-25"}, "since", "The start is missing."),
        ({"since": "soon"}, "since", "Write a time such as 2026-11-25 21:00, or a day."),
        ({"since": "2026-11-25", "until": "2026-11-24"}, "until", "The end is not after the start."),
        ({"since": "1066-10-14"}, "since", "Write a time in the years 1900 to 2299."),
        ({"tz": "America"}, "tz", "There is no such time zone."),
        ({"tz": "../../etc/passwd"}, "tz", "There is no such time zone."),
        ({"columns": "type,amout"}, "columns", "There is no column amout."),
        ({"columns": 'context."'}, "columns", "is not a path."),
        ({"columns": ",".join(f"context.k{n}" for n in range(13))}, "columns", "Keep at most 12 of them."),
    ],
)
def test_what_is_wrong_is_said_beside_its_field(parameters: dict[str, str], field: str, message: str) -> None:
    _, (problem,) = read(parameters, own=OWN, now=NOW)

    assert problem.field == field
    assert message in problem.text


def test_an_error_of_the_query_has_its_place() -> None:
    _, (problem,) = read({"q": "outcome:failure user:7"}, now=NOW)

    assert problem.position == 16


def test_the_text_of_a_query_has_no_line_break_that_a_form_would_change() -> None:
    state, problems = read({"q": 'actor:"a\nb"\n refund'}, now=NOW)

    assert problems == []
    assert state.text == r'actor:"a\u000ab" refund'


def test_times_are_of_the_page_s_zone_unless_they_have_an_offset_of_their_own() -> None:
    local, _ = read({"tz": "Europe/Berlin", "since": "2026-11-25 21:00", "until": "2026-11-25T22:00Z"}, now=NOW)

    assert local.period == Between(datetime(2026, 11, 25, 20, tzinfo=UTC), datetime(2026, 11, 25, 22, tzinfo=UTC))


@pytest.mark.parametrize(
    ("zone", "since", "until", "expected"),
    [
        # Clocks are put back at 01:00 UTC: an hour is shown twice, and a period has both.
        ("Europe/Berlin", "2026-10-25 02:30", "2026-10-25 02:30", ("2026-10-25T00:30Z", "2026-10-25T01:30Z")),
        # Clocks are put forward at 01:00 UTC: what is shown as 01:59 and as 03:00 is one second apart.
        ("Europe/Berlin", "2026-03-29 01:00", "2026-03-29 02:30", ("2026-03-29T00:00Z", "2026-03-29T01:00Z")),
        ("Europe/Berlin", "2026-03-29 02:30", "2026-03-29 03:10", ("2026-03-29T01:00Z", "2026-03-29T01:10Z")),
        # A day that begins at 01:00.
        ("Africa/Cairo", "2026-04-23", "2026-04-23", ("2026-04-22T22:00Z", "2026-04-23T22:00Z")),
        ("Africa/Cairo", "2026-04-24", "2026-04-24", ("2026-04-23T22:00Z", "2026-04-24T21:00Z")),
        ("Australia/Lord_Howe", "2026-10-04 02:15", "2026-10-04", ("2026-10-03T15:30Z", "2026-10-04T13:00Z")),
    ],
)
def test_no_event_of_a_period_is_lost_when_clocks_change(
    zone: str, since: str, until: str, expected: tuple[str, str]
) -> None:
    state, problems = read({"tz": zone, "since": since, "until": until}, now=NOW)

    assert problems == []
    assert state.period == Between(*map(datetime.fromisoformat, expected))


def test_a_day_as_the_end_means_all_of_it() -> None:
    state, _ = read({"since": "2026-11-24", "until": "2026-11-24"}, now=NOW)

    assert state.period == Between(datetime(2026, 11, 24, tzinfo=UTC), datetime(2026, 11, 25, tzinfo=UTC))


def test_a_start_alone_means_until_now() -> None:
    state, _ = read({"since": "2026-11-25"}, now=NOW)

    assert state.period == Between(datetime(2026, 11, 25, tzinfo=UTC), NOW)


def test_names_of_columns_are_those_of_a_query() -> None:
    assert columns.read("event_type, type ,tenant,context.a.b", OWN) == (
        columns.Shown("type", TYPE),
        columns.Shown("tenant", ColumnField("tenant", Kind.TEXT)),
        columns.Shown("context.a.b", Path(("a", "b"))),
    )


def test_a_click_on_a_value_narrows_the_query_and_a_second_one_takes_it_back() -> None:
    query = parse("refund")

    once = terms.narrowed(query, TYPE, Text("login"))
    twice = terms.narrowed(once, TYPE, Text("logout"))

    assert [terms.written(each) for each in (once, twice)] == ["refund type:login", "refund type:login,logout"]
    assert terms.is_on(twice, TYPE, Text("logout"))
    assert terms.narrowed(terms.narrowed(twice, TYPE, Text("login")), TYPE, Text("logout")) == query


def test_a_value_is_left_out_or_wanted_and_never_both() -> None:
    without = terms.excluded(parse("a OR b"), TYPE, Text("login"))

    assert terms.written(without) == "(a OR b) -type:login"
    assert terms.is_off(without, TYPE, Text("login"))
    assert terms.written(terms.narrowed(without, TYPE, Text("login"))) == "(a OR b) type:login"
    assert terms.excluded(without, TYPE, Text("login")) == parse("a OR b")
    assert terms.excluded(Query(), TYPE, Text("x")) == parse("-type:x")


def test_a_value_of_a_view_with_a_pattern_narrows_it() -> None:
    view = parse("type:*_failed,signed_out refund")

    narrowed = terms.narrowed(view, TYPE, Text("login_failed"))

    assert terms.written(narrowed) == "type:*_failed,signed_out refund type:login_failed"
    assert terms.narrowed(narrowed, TYPE, Text("login_failed")) == view
    assert terms.written(terms.narrowed(view, TYPE, Text("signed_out"))) == "type:*_failed refund"


def test_a_value_that_is_wanted_is_left_out_instead() -> None:
    assert terms.excluded(parse("type:login refund"), TYPE, Text("login")) == parse("refund -type:login")
    assert terms.excluded(parse("type:login,logout"), TYPE, Text("login")) == parse("type:logout -type:login")


@given(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        st.integers(),
        st.booleans(),
        st.none(),
    )
)
def test_the_text_of_a_clicked_value_finds_that_value_again(found: object) -> None:
    value = terms.value_of(found)
    assert value is not None

    query = terms.narrowed(Query(), Path(("a", "b c")), value)

    assert parse(terms.written(query)) == query


def test_a_zone_shows_times_and_names_itself() -> None:
    moment = datetime(2019, 11, 25, 21, 42, 7, 318204, tzinfo=UTC)
    zone = Zone.named("Asia/Kathmandu")

    assert zone.clock(moment) == "03:27:07.318204"
    assert zone.day(moment) == "Tue 26 Nov 2019"
    assert zone.full(moment) == "Tue 26 Nov 2019, 03:27:07.318204 Asia/Kathmandu"
    assert UTC_ZONE.typed(moment.replace(second=0, microsecond=0)) == "2019-11-25 21:42"
    assert as_utc(moment) == "2019-11-25T21:42:07.318204Z"
    assert [age(timedelta(seconds=seconds)) for seconds in (0, 59, 200, 90_000)] == ["a moment", "59 s", "3 min", "1 d"]
