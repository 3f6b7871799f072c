"""How PostgreSQL finds what a search asks for, among a million events: by the index, and without sorting them.

Plans are looked at, and the rows that they touch, which are the same on every machine. No time is.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.conformance.rows import OWN_COLUMNS, row, write
from tests.conformance.subjects import PostgreSQLSubject
from towpath.eventlog.query import Query, parse
from towpath.eventlog.search import Position
from towpath.eventlog.stores.postgresql import search
from towpath.eventlog.stores.postgresql.store import PostgreSQLStore
from towpath.eventlog.values import EARLIEST, TOO_LATE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from tests.conformance.subjects import AnyStore, Subject

pytestmark = pytest.mark.only("postgresql", reason="plans are PostgreSQL's")

_EVENTS = 1_000_000
_DAYS = 60
#: One event of every 50 is of a type, and one of every 20,000 of the rare one.
_FILL = f"""
INSERT INTO event_log (
    outbox, outbox_id, window_id, event_type, event_date_time, environment, metadata_version, event_context,
    actor, request_id, ip, target, outcome, own_text, own_low_cardinality_text, own_boolean, own_whole_number,
    own_signed_number, own_decimal, own_float, own_time, own_uuid
)
SELECT 'outbox_event', number, window_id, CASE WHEN number %% 20000 = 7 THEN 'rare' ELSE 'type_' || number %% 50 END,
    event_date_time + number * interval '{_DAYS} days' / {_EVENTS}, environment, metadata_version, event_context,
    actor, request_id, ip, target, outcome, own_text, own_low_cardinality_text, own_boolean, own_whole_number,
    own_signed_number, own_decimal, own_float, own_time, own_uuid
FROM event_log, generate_series(1, {_EVENTS}) AS number WHERE outbox = 'a'
""".replace("%%", "%")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_search_walks_an_index_from_its_newest_end(store: AnyStore, subject: Subject) -> None:
    assert isinstance(subject, PostgreSQLSubject)
    assert isinstance(store, PostgreSQLStore)
    # Its months get partitions as they do in life.
    first = row(0, outbox="a")
    start = first.event_date_time
    write(store, first, *(row(0, outbox="b", moment=start + timedelta(days=days)) for days in (30, _DAYS)))
    subject.execute(_FILL)
    subject.execute("ANALYZE event_log")
    end = start + timedelta(days=_DAYS, microseconds=1)
    month: dict[str, Any] = {"since": end - timedelta(days=30), "until": end}
    position = Position(start + timedelta(days=_DAYS / 2), "outbox_event", _EVENTS // 2)
    always: dict[str, Any] = {"since": EARLIEST, "until": TOO_LATE}

    _is_walked(store, Query(), **month)
    _is_walked(store, Query(), since=end - timedelta(minutes=15), until=end)
    _is_walked(store, Query(), **always)
    _is_walked(store, Query(), **always, before=position)
    _is_walked(store, parse("type:type_7"), **month)
    _is_walked(store, parse("type:type_7"), **always, before=position)
    _is_walked(store, parse("type:rare"), **month, rows=10)

    plan = _plan(store, *search.at(position, own=OWN_COLUMNS))
    # What is sorted are the few events at one position.
    assert {node["Node Type"] for node in _nodes(plan)} <= {"Index Scan", "Append", "Sort"}
    assert _touched(plan) == 1


def _is_walked(
    store: PostgreSQLStore,
    query: Query,
    *,
    since: datetime,
    until: datetime,
    before: Position | None = None,
    rows: int = 100,
) -> None:
    sql, parameters = search.page(
        query,
        since=since,
        until=until,
        before=before,
        rows=rows,
        most_characters=200,
        own=OWN_COLUMNS,
        server=store._client.server(),
    )
    plan = _plan(store, sql, parameters)
    kinds = {node["Node Type"] for node in _nodes(plan)}
    assert kinds <= {"Limit", "Subquery Scan", "Append", "Merge Append", "Index Scan", "Result"}, (str(query), kinds)
    # One more says that the last position has no other row; a partition that is empty at its end has none.
    assert rows <= _touched(plan) <= rows + 5, str(query)


def _plan(store: PostgreSQLStore, sql: str, parameters: dict[str, Any]) -> dict[str, Any]:
    explain = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}"
    (((plan,),),) = store._client.query_within(explain, parameters, seconds=60)
    found: dict[str, Any] = plan["Plan"]
    return found


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def _touched(plan: dict[str, Any]) -> int:
    """Rows that were read, also those that a filter has then left out."""
    scans = [node for node in _nodes(plan) if node["Node Type"].endswith("Scan") and "Relation Name" in node]
    return sum(int(node["Actual Rows"]) + int(node.get("Rows Removed by Filter", 0)) for node in scans)
