"""The query language: what is parsed, what is printed, what is said about a text that is not a query, what is found."""

from __future__ import annotations

import itertools
import json
import math
import re
import time
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.local.process import PROJECT
from tests.conformance.rows import OWN_COLUMNS
from tests.queries import contexts, queries
from towpath.eventlog.columns import TEXT, Column, FromContext
from towpath.eventlog.query import Query, QueryError, parse
from towpath.eventlog.query.matching import COMPARE, context_value, matches
from towpath.eventlog.query.numbers import before_rounding, of_floats, of_wholes
from towpath.eventlog.query.operators import Operator
from towpath.eventlog.query.parser import MOST_CHARACTERS, MOST_DEPTH, MOST_TERMS
from towpath.eventlog.stored import StoredEvent
from towpath.eventlog.stores.clickhouse.query import where as where_in_clickhouse
from towpath.eventlog.stores.postgresql.query import where as where_in_postgresql

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW = UUID("11111111-2222-3333-4444-555555555555")


def event(context: object = None, **columns: object) -> StoredEvent:
    """`context` is an object, or its text."""
    text = context if isinstance(context, str) else json.dumps(context or {}, ensure_ascii=False)
    added = {"actor": "user:7", "request_id": "", "ip": "10.0.0.1", "target": "", "outcome": "failure"}
    return StoredEvent(
        event_type="user_created",
        event_date_time=datetime(2026, 11, 26, 14, 5, 30, 250_000, UTC),
        environment="live",
        event_context=text,
        metadata_version=2,
        outbox="outbox_user",
        outbox_id=9007199254740993,
        window_id=WINDOW,
        written_at=datetime(2026, 11, 26, 15, 0, tzinfo=UTC),
        added=added | columns,
    )


def finds(text: str, one: StoredEvent | None = None) -> bool:
    return matches(parse(text, columns=OWN_COLUMNS), one or event())


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("", ""),
        ("  ", ""),
        ("Login failed", "Login failed"),
        ('"log in"', '"log in"'),
        ('"login"', "login"),
        ('"OR"', '"OR"'),
        ("or", "or"),
        ("10:30", '"10:30"'),
        ("type:user_created", "event_type:user_created"),
        ("env:live time>2026-11-26", "environment:live event_date_time>2026-11-26"),
        ("actor:user:7", "actor:user:7"),
        ('actor:"a b"', 'actor:"a b"'),
        ('actor:"a"', "actor:a"),
        ('actor:""', 'actor:""'),
        (r"actor:CORP\bob", r"actor:CORP\bob"),
        (r'actor:"a \"b\" \\ c"', r'actor:"a \"b\" \\ c"'),
        ('actor:"a\r\nb"', r'actor:"a\u000d\u000ab"'),
        (r'actor:"a\U000Ab\\u000a"', r'actor:"a\u000ab\\u000a"'),
        ("type:a,b", "event_type:a,b"),
        ("context.amount>10", "context.amount>10"),
        ('context.amount:"10"', 'context.amount:"10"'),
        ("context.email:**@x.com", "context.email:*@x.com"),
        ('context.name:"a b"*"*"', 'context.name:"a b"*"*"'),
        ('context."a.b".c:1', 'context."a.b".c:1'),
        ('context."a":1', "context.a:1"),
        ("-type:a", "-event_type:a"),
        ("NOT a AND b", "-a b"),
        ("--a", "--a"),
        ("a OR b c", "a OR b c"),
        ("(a OR b) c", "(a OR b) c"),
        ("(a b) c", "a b c"),
        ("a OR (b OR c)", "a OR b OR c"),
        ("-(a b)", "-(a b)"),
        ("((a))", "a"),
        ("has:context.x has:actor", "has:context.x has:actor"),
        ('time:"2026-11-26 14:05"', "event_date_time:2026-11-26T14:05"),
        ("own_boolean:true", "own_boolean:true"),
        ("window_id:11111111222233334444555555555555", f"window_id:{WINDOW}"),
    ],
)
def test_a_query_prints_as_canonical_text(text: str, printed: str) -> None:
    query = parse(text, columns=OWN_COLUMNS)

    assert str(query) == printed
    assert parse(printed, columns=OWN_COLUMNS) == query


@given(queries)
@settings(max_examples=200, deadline=None)
def test_what_is_printed_is_one_line_and_parsed_to_the_same_query(query: Query) -> None:
    """A form that is sent changes line breaks, and a field of one line removes them."""
    assert not {"\r", "\n"} & {*str(query)}
    assert parse(str(query), columns=OWN_COLUMNS) == query


_fragments = st.sampled_from(
    (
        *'()"\\-*,:<>=. \n',
        "OR",
        "AND",
        "NOT",
        "has:",
        "type:",
        "context.",
        "a",
        "time>",
        "2026-11-26",
        "outbox_id:",
        "1e9",
    )
)


@given(st.one_of(st.lists(_fragments, max_size=20).map("".join), st.text(max_size=40)))
@settings(max_examples=400, deadline=None)
def test_any_text_is_a_query_or_a_query_error_with_a_position(text: str) -> None:
    try:
        query = parse(text, columns=OWN_COLUMNS)
    except QueryError as raised:
        error = raised
    else:
        assert parse(str(query), columns=OWN_COLUMNS) == query
        return

    assert 0 <= error.position <= len(text)
    assert str(error).isprintable()
    assert len(error.pointed().splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "position", "part"),
    [
        ("user:7", 0, "There is no column user. Write context.user"),
        ('time>"\n\x1b[2J\u2028"', 5, r'cannot hold "\u000a\x1b[2J\u2028". Write a time'),
        ("a actr:7", 2, "Did you mean actor?"),
        ("user.id:7", 0, "Write context.user.id"),
        ("context:7", 0, "Write context.key"),
        ("https://x", 0, "put the text in quotes"),
        ("actor:", 6, 'Write one, or "" for an empty one'),
        ("actor:a,", 8, "A value is missing"),
        ("actor=7", 5, "Write actor:value"),
        ("actor!=7", 5, "Write -actor:value"),
        ("context.a:>7", 10, "Write context.a>10"),
        ("context.a>7,8", 11, "> takes one value"),
        ("context.a>7*", 10, "> takes no pattern"),
        ("context.a>true", 10, "true has no order"),
        ("context.a:1e999", 10, "beyond the largest float"),
        ("outbox_id:x", 10, 'outbox_id cannot hold "x". Write a number'),
        ("outbox_id:1*", 10, "takes no pattern"),
        ("time:yesterday", 5, "Write a time, such as"),
        ("time:2026-13", 5, "Write a time, such as"),
        ("time>9999-12-31", 5, "Write a time, such as"),
        ("window_id:1", 10, "Write a UUID"),
        ("window_id>11111111222233334444555555555555", 10, "window_id has no order"),
        ("own_boolean:yes", 12, "Write true or false"),
        ("has:time", 4, "has a value in every event"),
        ("has:", 4, "needs a path or a column"),
        ("has:actor,ip", 9, "takes nothing after it"),
        ("(a", 0, "This ( is never closed"),
        ("a)", 1, "This ) closes nothing"),
        ("()", 1, "A term is missing before this )"),
        ("a OR", 4, "The query ends where a term is expected"),
        ("OR a", 0, 'Write one before it, or "OR"'),
        ("a - b", 2, "This - has no term"),
        ("fail*", 4, "leave the * out"),
        ("a,b", 1, "A comma does not separate words"),
        ('a "b', 2, 'This " is never closed'),
        (r'"a\nb"', 2, r"Write \\ for a backslash"),
        (r'context."a\nb":1', 10, r"Write \\ for a backslash"),
        ('""', 0, "The quotes are empty"),
        ("a\0", 1, "No stored text has this character"),
        ("a\ud800", 1, "No stored text has this character"),
    ],
)
def test_what_is_no_query_is_named_with_its_place_and_what_to_write(text: str, position: int, part: str) -> None:
    with pytest.raises(QueryError) as raised:
        parse(text, columns=OWN_COLUMNS)

    assert part in str(raised.value)
    assert raised.value.position == position


def test_an_error_points_at_its_place() -> None:
    with pytest.raises(QueryError) as raised:
        parse("outcome:failure user:7")

    text, pointer = raised.value.pointed().splitlines()
    assert text == "outcome:failure user:7"
    assert pointer.startswith(" " * 16 + "^ There is no column user.")


@pytest.mark.parametrize(
    "text",
    [
        "a" * (MOST_CHARACTERS + 1),
        "(" * (MOST_DEPTH + 1) + "a" + ")" * (MOST_DEPTH + 1),
        "-" * (MOST_DEPTH + 1) + "a",
        "NOT " * (MOST_DEPTH + 1) + "a",
        "a " * (MOST_TERMS + 1),
        "type:" + ",".join("a" * (MOST_TERMS + 1)),
        "context" + ".a" * 11 + ":1",
    ],
)
def test_a_query_that_is_too_large_is_refused(text: str) -> None:
    with pytest.raises(QueryError, match=r"Shorten|Split|Remove some"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 4000,
        "-" * 4000,
        '"' + "\\" * 3999,
        'a."' * 1333,
        "a." * 2000,
        'context."' + "\\a" * 1990,
        "*" * 4000,
        "context" + ".a" * 1990,
        "context.a:" + "*a" * 1990,
        "actor:" + '""' * 1990,
        "has:" * 1000,
        "a:" * 2000,
    ],
)
def test_a_hostile_text_costs_little(text: str) -> None:
    started = time.thread_time()

    for _ in range(10):
        try:
            parse(text)
        except QueryError as error:
            error.pointed()

    assert time.thread_time() - started < 1


def test_a_hostile_pattern_costs_little() -> None:
    query = parse("context.a:" + "*a" * 1900 + "*b")
    started = time.thread_time()

    assert not matches(query, event({"a": "a" * 100_000}))

    assert time.thread_time() - started < 1


def test_a_projects_column_comes_before_an_alias_of_ours() -> None:
    columns = (Column("type", TEXT, FromContext("type")),)

    assert str(parse("type:a", columns=columns)) == "type:a"
    assert str(parse("type:a")) == "event_type:a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "type:user_created",
        "type:other,user_created",
        "type:user_*",
        "type:*",
        "-type:user_*x",
        "actor:user:7 outcome:failure env:live",
        "type:other OR outcome:failure",
        "-(type:other OR outcome:success)",
        "type>=user_created -type>user_created type<z",
        "has:actor -has:target",
        'target:"" -target:a',
        "outbox_id:9007199254740993 -outbox_id:9007199254740992",
        "outbox_id>9007199254740992 outbox_id<9007199254740993.5 metadata_version:2.0",
        "time:2026-11 time:2026-11-26 time:2026-11-26T14:05 time:2026-11-26T14:05:30 time:2026-11-26T14:05:30.25",
        "-time:2026-11-26T14:04 -time:2026-11-26T14:05:30.2501",
        "time>2026-11-25 -time>2026-11-26 time>=2026-11-26 time<=2026-11-26 -time<2026-11-26 time<2026-11-27",
        "time:2026-11-26T15:05+01:00 time:2026-11-26T09:35-04:30 time>2026-11-26T14:05:29Z",
        "window_id:11111111-2222-3333-4444-555555555555 written_at>2026-11-26T14:59",
    ],
)
def test_columns_find_the_event(text: str) -> None:
    assert finds(text)


@pytest.mark.parametrize(
    "text",
    [
        "ada",
        "ADA",
        "lovelace",
        '"ada love"',
        "email",
        r'"a \\\"b"',
        "-Müller",
        "context.name:*Love*",
        "context.name:Ada*",
        'context.name:"Ada Lovelace"',
        "-context.name:ada*",
        "-context.name:Ada",
        "context.email:*@x.com,*@y.com",
        "context.amount:12.5 context.amount:12.50 context.amount>12 context.amount<=12.5 -context.amount>12.5",
        '-context.amount:"12.5" -context.amount>"1" -context.amount:12*',
        "context.big:9007199254740993 -context.big:9007199254740992 context.big>9007199254740992",
        "context.big>9007199254740992.0 -context.big:9007199254740992.0",
        "context.huge:123456789012345678901234567890 -context.huge:123456789012345678901234567891",
        "-context.huge>1",
        'context.id:7 context.id:"7" -context.id:7.0 -context.id>6 context.id>"6"',
        "context.yes:true -context.yes:false -context.yes:1 -context.one:true",
        "context.nothing:null -context.nothing:false has:context.nothing",
        "-has:context.missing -context.missing:null -context.missing<1 -context.missing:*",
        "context.tags:red context.tags:blue -context.tags:green context.tags:3 context.tags>2 has:context.tags",
        "-context.tags:deep",
        "context.user.id:5 has:context.user -context.user:5 -context.user:*",
        'context."a.b".c:1 -has:context.a',
        "-has:context.tags.red -has:context.name.x",
        "context.at>2026-11-25",
        'context.quoted:"a \\"b"',
    ],
)
def test_words_and_paths_find_the_event(text: str) -> None:
    context = (
        '{"name": "Ada Lovelace", "email": "ada@x.com", "amount": 12.50, "big": 9007199254740993, "id": "7", "one": 1,'
        ' "huge": 123456789012345678901234567890, "yes": true, "nothing": null, "tags": ["red", "blue", 3, ["deep"]],'
        ' "user": {"id": 5}, "a.b": {"c": 1}, "at": "2026-11-25T10:00:00", "quoted": "a \\"b", "city": "MÜLLER"}'
    )

    assert finds(text, event(context))


@pytest.mark.parametrize(
    "context", ["", "{", '{"a": 1}x', '{"a": NaN}', '{"a": "\\u0000"}', '{"b": "\\ud800", "a": 1}']
)
def test_in_a_context_that_is_not_json_words_are_found_and_paths_are_not(context: str) -> None:
    assert not finds("has:context.a OR context.a:* OR context.a:1", event(context))
    assert finds("-context.a:1", event(context))
    assert context == "" or finds(f'"{context[0]}"', event(context))


def test_a_column_of_each_kind_compares_exactly() -> None:
    one = event(
        own_boolean=True, own_decimal=Decimal("99999999999999999999999999999.999999999"), own_float=0.1, own_text="a"
    )

    assert finds("own_boolean:true -own_boolean:false own_float:0.1 own_float:0.10000000000000000001", one)
    assert finds("own_decimal:99999999999999999999999999999.999999999 own_decimal<1e29", one)
    assert finds("own_decimal>99999999999999999999999999999.9999999989", one)


@given(queries, contexts)
@settings(max_examples=150, deadline=None)
def test_a_query_finds_an_event_or_its_negation_does(query: Query, context: str) -> None:
    own = {column.name: "" for column in OWN_COLUMNS} | {
        "own_boolean": True,
        "own_whole_number": 1,
        "own_signed_number": -1,
        "own_decimal": Decimal(1),
        "own_float": 0.5,
        "own_time": datetime(2024, 2, 29, tzinfo=UTC),
        "own_uuid": WINDOW,
    }
    one = event(context, **own)
    printed = str(query)

    found = matches(query, one)

    if printed:
        assert finds(f"-({printed})", one) is not found


@given(contexts)
@settings(max_examples=150, deadline=None)
def test_a_context_is_read_or_refused(context: str) -> None:
    try:
        json.loads(context)
    except ValueError:
        with pytest.raises(ValueError, match="it"):
            context_value(context)


_floats = st.floats(allow_nan=False, allow_infinity=False)


@given(_floats, _floats, st.booleans(), st.sampled_from(Operator))
@settings(deadline=None)
def test_bounds_before_rounding_are_those_of_the_nearest_float(
    wanted: float, other: float, is_near: bool, how: Operator
) -> None:
    near = [math.nextafter(wanted, math.inf), wanted, math.nextafter(wanted, -math.inf)]
    exact = [Fraction(one) for one in ([*near, 0.0] if is_near else [other]) if math.isfinite(one)]
    between = [(low + high) / 2 for low, high in itertools.pairwise(exact)]

    for number in [*exact, *between]:
        compare = COMPARE[how]
        bounds = before_rounding(how, wanted)
        assert all(COMPARE[bound](number, value) for bound, value in bounds) is compare(float(number), wanted)


@given(st.integers(-(2**65), 2**65), _floats, st.sampled_from(Operator))
@settings(deadline=None)
def test_floats_and_whole_numbers_compare_exactly(whole: int, one: float, how: Operator) -> None:
    condition = of_floats(how, whole)

    holds = condition if isinstance(condition, bool) else COMPARE[condition[0]](one, condition[1])

    assert holds is COMPARE[how](one, whole)


@given(st.integers(-10, 10), st.fractions(-12, 12, max_denominator=3), st.sampled_from(Operator), st.integers(-10, 0))
@settings(deadline=None)
def test_whole_numbers_of_a_range_compare_exactly(held: int, wanted: Fraction, how: Operator, smallest: int) -> None:
    held = max(held, smallest)

    condition = of_wholes(how, wanted, smallest=smallest, largest=10)

    holds = condition if isinstance(condition, bool) else COMPARE[condition[0]](held, condition[1])
    assert holds is COMPARE[how](held, wanted)


@pytest.mark.parametrize("where", [where_in_clickhouse, where_in_postgresql])
def test_what_a_person_writes_is_never_in_the_sql(where: Callable[[Query], tuple[str, dict[str, object]]]) -> None:
    text = "zq OR context.zq1.\"zq'2\":zq,zq*zq OR context.a>76543 OR type:zq*,'zq OR actor<zq OR has:context.zq"
    query = parse(f"{text} OR time>2024-05-06 OR outbox_id>76543 OR own_float>76543.5", columns=OWN_COLUMNS)

    sql, parameters = where(query)

    assert not re.search("zq|76543|2024", sql)
    assert set(re.findall(r"%\((\w+)\)s", sql)) == parameters.keys()
    assert "%" not in re.sub(r"%\(\w+\)s", "", sql)


def test_every_query_that_the_documentation_shows_is_one() -> None:
    page = (PROJECT / "docs" / "query.md").read_text(encoding="utf-8")
    table = page[page.index("| you write") : page.index("Side by side")]
    shown = re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)

    assert len(shown) > 15
    for text in shown:
        parse(text)


def test_the_documentation_shows_an_error_as_it_is() -> None:
    with pytest.raises(QueryError) as raised:
        parse("outcome:failure user:7")

    assert raised.value.pointed() in (PROJECT / "docs" / "query.md").read_text(encoding="utf-8")
