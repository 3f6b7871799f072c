"""The layout of a context: every token as it is stored, and terms that find the event."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.eventlog.query import Query, parse
from towpath.eventlog.query.matching import matches
from towpath.eventlog.stored import StoredEvent
from towpath.explorer.context_text import MOST_LINES, read

_NOW = datetime(2026, 11, 27, tzinfo=UTC)

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
_contexts = st.builds(
    lambda value, indent, is_ascii: json.dumps(value, indent=indent, ensure_ascii=is_ascii),
    _values,
    st.sampled_from((None, 0, 3)),
    st.booleans(),
)


def _event(context: str) -> StoredEvent:
    return StoredEvent("login", _NOW, "test", context, 1, "outbox_user", 1, UUID(int=1), _NOW)


def _text(context: str) -> str:
    """The layout as one text."""
    parts = []
    for line in read(context).lines:
        parts += [f"{line.key}:" if line.key else "", line.value, "," if line.has_comma else ""]
    return "".join(parts)


@given(_contexts)
def test_the_layout_has_each_token_as_it_is_stored(context: str) -> None:
    # What is left out is white space outside of strings.
    assert _text(context) == re.sub(r'("(?:[^"\\]|\\.)*")|[ \n]+', lambda match: match[1] or "", context)


@given(_contexts)
def test_each_term_is_a_query_that_finds_the_event(context: str) -> None:
    for line in read(context).lines:
        if line.term is not None:
            query = parse(str(Query(line.term)))
            assert query.term == line.term
            assert matches(query, _event(context)), line


@pytest.mark.parametrize(
    "number", ["9007199254740993", "18446744073709551616", "0.1000000000000000055", "1E+2", "-0", "1" * 5000]
)
def test_no_digit_of_a_number_is_lost(number: str) -> None:
    lines = read(f'{{"n": {number}}}').lines
    assert [(line.key, line.value, line.kind) for line in lines[1:-1]] == [('"n"', number, "number")]


def test_what_the_language_cannot_ask_for_has_no_term() -> None:
    lines = read('{"users": [{"id": 7}], "tags": ["red", ["blue"]], "deep": {"id": 7}, "list": [1]}').lines
    terms = [str(line.term) for line in lines if line.term]
    assert terms == ["context.tags:red", "context.deep.id:7", "context.list:1"]


@pytest.mark.parametrize("context", ['{"a": "\\u0000", "b": 1}', '{"a": "\\ud800", "b": 1}', "[1, 2]", '"text"', "7"])
def test_no_path_leads_into_such_a_context(context: str) -> None:
    found = read(context)
    assert found.is_json
    assert not [line for line in found.lines if line.term]


@pytest.mark.parametrize("context", ["", "not json", '{"a": 1', "NaN", '{"a": 1} {}', "a\nb"])
def test_what_is_not_json_is_shown_as_it_is(context: str) -> None:
    found = read(context)
    assert not found.is_json
    assert "\n".join(line.value[1:-1] for line in found.lines) == context


def test_a_large_context_is_shown_in_part() -> None:
    found = read(json.dumps(list(range(MOST_LINES * 2))))
    assert (len(found.lines), found.is_whole) == (MOST_LINES, False)
    whole = read(json.dumps(list(range(MOST_LINES - 2))))
    assert (len(whole.lines), whole.is_whole) == (MOST_LINES, True)


def test_brackets_that_hold_nothing_are_one_line() -> None:
    assert [line.value for line in read('{"a": {}, "b": []}').lines] == ["{", "{}", "[]", "}"]


def test_a_deep_context_costs_little() -> None:
    started = time.thread_time()

    found = read('{"a":' + "[" * 900 + "1" + "]" * 900 + "}")

    assert time.thread_time() - started < 1
    hidden = [line.value for line in found.lines if not line.is_hidden]
    assert hidden == ["{", "[", "]", "}"]


def test_depth_is_no_obstacle() -> None:
    assert not read("[" * 100_000 + "]" * 100_000).is_json
