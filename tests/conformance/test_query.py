"""A query finds the same events in every store: those that the language says, which Python can say of one event."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.rows import LARGEST, OWN_COLUMNS, SMALLEST, WINDOW, row, write
from tests.queries import contexts, moments, queries, texts
from towpath.eventlog.columns import Kind
from towpath.eventlog.query import Query, parse
from towpath.eventlog.query.matching import matches
from towpath.eventlog.stores.clickhouse.query import where as where_in_clickhouse
from towpath.eventlog.stores.clickhouse.settings import PINNED
from towpath.eventlog.stores.clickhouse.store import ClickHouseStore
from towpath.eventlog.stores.postgresql.query import where as where_in_postgresql
from towpath.eventlog.stores.postgresql.store import PostgreSQLStore
from towpath.eventlog.values import parse as value_of

if TYPE_CHECKING:
    from datetime import datetime

    from tests.conformance.subjects import AnyStore
    from towpath.eventlog.stores.memory import StoredRow

pytestmark = pytest.mark.only(
    "clickhouse", "chdb", "postgresql", reason="the store in memory asks what the others are compared with"
)

#: What compilers get wrong first, whatever chance brings.
CONTEXTS = (
    '{"a": 1}',
    '{"a": "1"}',
    '{"a": 1.0}',
    '{"a": 10}',
    '{"a": "b"}',
    '{"a": "A"}',
    '{"a": null}',
    '{"b": 1}',
    "{}",
    '{"a": true}',
    '{"a": "true"}',
    '{"a": []}',
    '{"a": [1, "x", null, [2], {"b": 3}]}',
    '{"a": {"b": {"c": "d"}}}',
    '{"a": 9007199254740993}',
    '{"a": 9007199254740992}',
    '{"a": 9007199254740993.0}',
    '{"a": 18446744073709551615}',
    '{"a": 18446744073709551616}',
    '{"a": -9223372036854775808}',
    '{"a": -9223372036854775809}',
    '{"a": -0}',
    '{"a": -0.0}',
    '{"a": [18446744073709551615, 1e22, 0.1]}',
    '{"a": 0.1}',
    '{"a": 1.2345678901234567e18}',
    '{"a": 5e-324}',
    '{"a": 0.1000000000000000055511151231257827021181583404541015625}',
    '{"a": 0.30000000000000004}',
    '{"a": 1e-400}',
    '{"a": "50%"}',
    '{"a": "a_b"}',
    '{"a": "a\\\\b"}',
    '{"a": "50 %\\nx"}',
    '{"a": "\\u00e9"}',
    '{"a": "É"}',
    '{"a": ""}',
    '{"a.b": {"": 1}}',
    '{"\\u0061": 1}',
    '{"a": "\\u0000"}',
    '{"a": "\\\\u0000"}',
    '{"a": "\\ud800"}',
    "[1]",
    "1",
    "",
    '{"a": 1',
    '{"a": 01}',
    '{"a": NaN}',
    '{"a": 1}}',
    '{"a": "\t"}',
    '["a\n","a\n"]',
    '{"a": "\\ud83d\\ude00"}',
    "a",
)
NEAR_ZERO = (
    "a",
    "b",
    "true",
    "1",
    "-1",
    "0.1",
    "-0.0",
    "2024-02-29 12:30:00+00",
    "00000000-0000-0000-0000-000000000001",
)
QUERIES = (
    "",
    "a",
    "A",
    '"\\""',
    "é",
    "É",
    "has:context.a",
    "has:context.a.b",
    "-has:context.a",
    'has:context."a.b"',
    "-a",
    "context.a:1",
    "-context.a:1",
    'context.a:"1"',
    "context.a:1.0",
    "context.a>1",
    "context.a<=1",
    'context.a>"1"',
    "context.a>=9007199254740993",
    "context.a<9007199254740993",
    "context.a:9007199254740993",
    "context.a>1e18",
    "context.a:9007199254740993.0",
    "context.a<=9007199254740993.0",
    "context.a:18446744073709551615",
    "context.a:18446744073709551616",
    "context.a>18446744073709551615",
    "context.a<-9223372036854775807",
    "context.a:-9223372036854775809",
    "context.a:0",
    "context.a:0.0,3.5,4.5",
    "context.a:-0.0,3.5,4.5",
    "context.a:0.1",
    "context.a<=0.1",
    "context.a>0.1",
    "context.a:0.3",
    "context.a:1e22",
    "context.a:1234567890123456768",
    "context.a:true",
    'context.a:"true"',
    "context.a:null",
    "own_float>0",
    "context.a:*",
    "context.a:*%*",
    "context.a:*_*",
    "context.a:5*%",
    r"context.a:a\*",
    "context.a:a,b,1,null",
    "context.a>Z",
    "context.a:é",
    "context.a.b.c:d",
    'context."a.b"."":1',
    "context.a:3",
    "context.a:2",
    'context.a:""',
    "context.b:1",
    "outbox_id>0",
    "outbox_id:3",
    "outbox_id<2.5",
    "outbox_id>-1",
    "outbox_id<1e300",
    "own_signed_number>-1e30",
    "own_decimal:99999999999999999999999999999.999999999",
    "own_decimal>0.0000000001",
    "own_decimal<1e29",
    "own_decimal>1e29",
    "own_float:5e-324",
    "own_float:1,-1,0",
    "own_float:1,-1,-0.0",
    "own_float<0",
    "own_float>=1.7976931348623157e308",
    "own_boolean:true,false",
    "own_boolean:true",
    "time:2024-02-29",
    "time>2024-02-29",
    "time<=2024-02-29T12:30",
    "time>0001-01",
    "time<9000-01",
    "own_time:2299-12-31",
    "type:paid",
    "type:p*",
    "type<=paid",
    "-type:paid,b",
    "has:actor",
    "type>é",
    "own_uuid:ffffffff-ffff-ffff-ffff-ffffffffffff",
)


_LARGE = re.compile(r"\d{19}")


def events() -> list[StoredRow]:
    """Rows with the contexts above, and as many again of chance."""
    found = [row(number, context=context.encode()) for number, context in enumerate(CONTEXTS, 1)]

    @given(contexts, moments, texts, texts, st.sampled_from((LARGEST, SMALLEST, NEAR_ZERO)))
    @settings(max_examples=50, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def more(context: str, moment: datetime, event_type: str, actor: str, own: tuple[str, ...]) -> None:
        one = row(len(found) + 1, context=context.encode(), event_type=event_type, own=own)
        values = tuple(map(value_of, Kind, own))
        found.append(replace(one, event_date_time=moment, added=(actor, *one.added[1 : -len(values)], *values)))

    more()
    return found


def found_by(store: AnyStore, query: Query) -> set[int]:
    """What the store's own SQL finds, by number."""
    match store:
        case ClickHouseStore():
            sql, parameters = where_in_clickhouse(query)
            rows = store._client.query(f"SELECT outbox_id FROM event_log WHERE {sql}", wanted=PINNED, **parameters)
        case PostgreSQLStore():
            sql, parameters = where_in_postgresql(query)
            rows = store._client.query(f"SELECT outbox_id FROM event_log WHERE {sql}", **parameters)
        case _:
            raise TypeError(store)
    return {int(number) for (number,) in rows}


def rounds_large_integers(store: AnyStore) -> bool:
    """True for an older ClickHouse, to which integers above 64 bits are floats (docs/query.md)."""
    return isinstance(store, ClickHouseStore) and bool(store._client._for_json)


def test_every_store_finds_what_the_language_says(store: AnyStore) -> None:
    write(store, *events())
    stored = store.read_rows([WINDOW], Query())

    def agree(query: Query) -> None:
        expected = {event.outbox_id: event.event_context for event in stored if matches(query, event)}
        found = found_by(store, query)
        if rounds_large_integers(store):
            expected = {number: context for number, context in expected.items() if not _LARGE.search(context)}
            found -= {event.outbox_id for event in stored if _LARGE.search(event.event_context)}
        contexts_of = {event.outbox_id: event.event_context for event in stored}
        assert {number: contexts_of[number] for number in found} == expected, str(query)

    for text in QUERIES:
        agree(parse(text, columns=OWN_COLUMNS))

    given(queries)(settings(max_examples=60, deadline=None, database=None)(agree))()


def test_a_context_with_an_integer_above_64_bits_is_found_by_its_paths(store: AnyStore) -> None:
    contexts = (f'{{"a": {2**64}, "b": 1}}', f'{{"a": {-(2**63) - 1}, "b": "x"}}', f'{{"a": [1, {10**30}], "b": null}}')
    write(store, *(row(number, context=context.encode()) for number, context in enumerate(contexts, 1)))

    for text, numbers in (
        ("has:context.a", {1, 2, 3}),
        ("has:context.b", {1, 2, 3}),
        ("context.b:1", {1}),
        ("context.b:x", {2}),
        (f"context.a:{2**64}", {1}),
        ("context.a:1", {3}),
        ("context.b:null", {3}),
        ("-context.b:x", {1, 3}),
    ):
        assert found_by(store, parse(text)) == numbers, text


def test_the_largest_query_is_answered(store: AnyStore) -> None:
    write(store, row(1, context=b'{"a": [1, 99]}'))

    for text in (
        "context.a:" + ",".join(map(str, range(99, -1, -1))),
        " OR ".join(f"context.{'a' * 20}{number}>{number}" for number in range(98)) + " OR type:paid",
        " ".join(["context.a>0"] * 100),
        f"context.{'a' * 3700}:{','.join('1' * 99)} OR -context.b:1",
    ):
        assert found_by(store, parse(text)) == {1}, text[:80]


def test_paths_are_looked_for_in_contexts_of_twenty_levels(store: AnyStore) -> None:
    objects = [b'{"a": ' * levels + b"1" + b"}" * levels for levels in range(1, 21)]
    arrays = [b'{"a": ' + b"[" * levels + b"1" + b"]" * levels + b"}" for levels in range(1, 20)]
    write(store, *(row(number, context=context) for number, context in enumerate([*objects, *arrays], 1)))

    assert found_by(store, parse("has:context.a")) == set(range(1, 40))
    assert found_by(store, parse("context.a:1")) == {1, 21}
    assert found_by(store, parse("context.a.a.a:1")) == {3}
