"""Random queries, and random events that they may find."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from tests.conformance.rows import OWN_COLUMNS
from towpath.eventlog.columns import Column, FromPipeline, Kind, row_columns
from towpath.eventlog.query.operators import Operator
from towpath.eventlog.query.periods import period
from towpath.eventlog.query.syntax import (
    CONSTANTS,
    ColumnField,
    Comparison,
    Constant,
    FullText,
    Has,
    Not,
    Number,
    Path,
    Pattern,
    Query,
    Text,
    all_of,
    any_of,
)

#: As in a store: any but NUL and halves of pairs. Few letters, so that queries find something.
LETTERS = st.one_of(
    st.sampled_from("aAbZ%_*\\\"'.,:<>=- ()\n\t{}[]0é\u0130\u017f😀\u2028/"),
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
)
texts = st.one_of(
    st.sampled_from(("", "a", "b", "ab", "A", "aXb", "true", "null", "1", "7", "1.0", "a%b", "OR", "has", "é", "É")),
    st.text(LETTERS, max_size=6),
)
_shown = texts.filter(bool)
whole_numbers = st.one_of(
    st.integers(-3, 12),
    st.sampled_from((2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**64 - 1, 2**64, 10**30, -(2**63) - 1)),
)
numbers = st.one_of(
    whole_numbers.map(str),
    st.sampled_from(
        ("0.1", "0.10", "1.0", "1e0", "-0", "-0.0", "9007199254740993.0", "9007199254740992.5", "1.5e3", "1E+2", "2.5")
    ),
    st.sampled_from(("18446744073709551616.0", "9223372036854775807.5", "1e300", "5e-324", "1e-320", "1e22", "0.3")),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)
keys = st.one_of(st.sampled_from(("a", "b", "a.b", "", "0", "user-id", "é", 'q"\\')), st.text(LETTERS, max_size=3))
times = st.sampled_from(
    (
        "2024-02",
        "2024-02-29",
        "2024-02-29T12:30Z",
        "2024-02-29T13:30:15+01:00",
        "2024-02-29T12:30:15.123",
        "2024-02-29T12:30:15.123456",
        "1900-01",
        "0001-01-01",
        "2299-12-31",
        "9998-01-01",
        "2024-03-01T00:00:00-14:00",
    )
)

_texts_of = {Kind.TEXT, Kind.LOW_CARDINALITY_TEXT}
_numbers_of = {Kind.WHOLE_NUMBER, Kind.SIGNED_NUMBER, Kind.DECIMAL, Kind.FLOAT}
_columns = (*row_columns(OWN_COLUMNS), Column("written_at", Kind.TIME, FromPipeline()))

column_fields = st.sampled_from([ColumnField(column.name, column.kind) for column in _columns])
paths = st.lists(keys, min_size=1, max_size=3).map(lambda found: Path(tuple(found)))
patterns = st.builds(
    lambda first, middle, last: Pattern((first, *middle, last)), texts, st.lists(_shown, max_size=2), texts
)
_operators = st.sampled_from(Operator)
_orders = st.sampled_from([how for how in Operator if how is not Operator.IS])


def _values(field: ColumnField | Path, how: Operator) -> st.SearchStrategy[Any]:
    is_equal = how is Operator.IS
    if isinstance(field, Path):
        constants = [st.sampled_from(CONSTANTS).map(Constant), patterns] if is_equal else []
        return st.one_of(texts.map(Text), numbers.map(Number), *constants)
    if field.kind in _texts_of:
        return st.one_of(texts.map(Text), *([patterns] if is_equal else []))
    if field.kind in _numbers_of:
        return numbers.map(Number)
    if field.kind is Kind.BOOLEAN:
        return st.sampled_from(("true", "false")).map(Constant)
    return times.map(period) if field.kind is Kind.TIME else st.uuids().map(str).map(Text)


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    field = draw(st.one_of(column_fields, paths))
    is_ordered = isinstance(field, Path) or field.kind not in {Kind.BOOLEAN, Kind.UUID}
    how = draw(_operators) if is_ordered else Operator.IS
    values = draw(st.lists(_values(field, how), min_size=1, max_size=3 if how is Operator.IS else 1))
    return Comparison(field, how, tuple(values))


_with_text = column_fields.filter(lambda field: field.kind in _texts_of)
_leaves = st.one_of(comparisons(), comparisons(), _shown.map(FullText), st.one_of(paths, _with_text).map(Has))
terms = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=2, max_size=3).map(all_of),
        st.lists(inner, min_size=2, max_size=3).map(any_of),
    ),
    max_leaves=6,
)
queries = st.one_of(st.just(Query()), terms.map(Query))


_scalars = st.one_of(texts, st.none(), st.booleans(), numbers.map(lambda text: {"number": text}))
_values_of_json = st.recursive(
    _scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)
_objects = st.dictionaries(keys, _values_of_json, max_size=4)


def _dumped(value: Any, *, is_ascii: bool) -> str:
    match value:
        case {"number": str(text)} if len(value) == 1:
            return text
        case dict():
            members = (
                f"{json.dumps(key, ensure_ascii=is_ascii)} : {_dumped(one, is_ascii=is_ascii)}"
                for key, one in value.items()
            )
            return "{" + ", ".join(members) + "}"
        case list():
            return "[" + ",".join(_dumped(one, is_ascii=is_ascii) for one in value) + "\n]"
    return json.dumps(value, ensure_ascii=is_ascii)


#: JSON, with every number as it is written, and texts that are nearly JSON.
contexts = st.one_of(
    st.builds(lambda value, is_ascii: _dumped(value, is_ascii=is_ascii), _objects, st.booleans()),
    st.builds(lambda value, is_ascii: _dumped(value, is_ascii=is_ascii), _values_of_json, st.booleans()),
    st.sampled_from(
        (
            "",
            "{",
            '{"a":1}x',
            '{"a":01}',
            '{"a":NaN}',
            '{"a":"\\ud800"}',
            '{"a":"\\u0000"}',
            '{"a":"\\\\u0000"}',
            '{"a":"\t"}',
            '["a\n","b\n"]',
            '{"a":1,}',
            "{'a':1}",
            '{"a":1 2}',
            '{"a":tr ue}',
            '{"a":"\\x"}',
            '{"a":[1,]}',
            '{"a":"\\ud83d\\ude00"}',
            '{"a":.5}',
            '{"a":1.}',
            '{"a" 1}',
            '{"a":1}{"a":1}',
            "[]",
            '"a"',
            " 1 ",
            '{"a":+1}',
            '{"a":\x0b1}',
            '{"a":\xa01}',
            '{"a":"b\x7f"}',
            '{"a":"\\ude00\\ud83d"}',
            "{\x01:1}",
            "{1:1}",
            '{"a":-}',
        )
    ),
    texts,
)
moments = st.one_of(
    st.just(datetime(2024, 2, 29, 12, 30, 15, 123456, UTC)),
    st.integers(0, 5 * 86_400_000_000).map(
        lambda number: datetime(2024, 2, 27, tzinfo=UTC) + timedelta(microseconds=number)
    ),
)
