"""What a table holds, context by context: the comparison with an old log rests on it (`eventlog compare`)."""

from __future__ import annotations

from datetime import timedelta
from hashlib import md5

import pytest

from tests.conformance.rows import MOMENT, SECOND, row, write
from tests.conformance.subjects import AnyStore, SchemaSubject
from towpath.eventlog.errors import StoreUnavailable
from towpath.eventlog.store import Digest

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
MICROSECOND = timedelta(microseconds=1)


def digests(store: AnyStore, *, since: timedelta = -HOUR, until: timedelta = HOUR) -> list[Digest]:
    return list(store.digests(None, since=MOMENT + since, until=MOMENT + until, slack=MINUTE))


def hexadecimal(context: bytes) -> str:
    return md5(context, usedforsecurity=False).hexdigest()


def test_rows_are_counted_by_type_and_context(store: AnyStore) -> None:
    write(store, row(1, context=b"a"), row(2, context=b"b\t\\"), row(3, context=b"a", moment=MOMENT + MINUTE))
    write(store, row(4, context=b"a", event_type="B"), row(5, context=b"a", event_type="\xe9"), token=SECOND)

    found = digests(store)

    assert sorted(found, key=lambda one: one.key) == found
    assert {one.key: (one.inside, one.around, one.first_at) for one in found} == {
        ("B", hexadecimal(b"a")): (1, 1, MOMENT),
        ("paid", hexadecimal(b"a")): (2, 2, MOMENT),
        ("paid", hexadecimal(b"b\t\\")): (1, 1, MOMENT),
        ("\xe9", hexadecimal(b"a")): (1, 1, MOMENT),
    }


def test_a_period_has_its_start_and_not_its_end(store: AnyStore) -> None:
    write(
        store,
        row(1, context=b"before", moment=MOMENT - MICROSECOND),
        row(2, context=b"start", moment=MOMENT),
        row(3, context=b"last", moment=MOMENT + HOUR - MICROSECOND),
        row(4, context=b"end", moment=MOMENT + HOUR),
    )

    found = {one.md5: (one.inside, one.around) for one in digests(store, since=timedelta(), until=HOUR)}

    assert found == {
        hexadecimal(b"before"): (0, 1),
        hexadecimal(b"start"): (1, 1),
        hexadecimal(b"last"): (1, 1),
        hexadecimal(b"end"): (0, 1),
    }


def test_what_is_further_away_than_the_slack_is_not_there(store: AnyStore) -> None:
    write(store, row(1, moment=MOMENT - MINUTE - MICROSECOND), row(2, moment=MOMENT + HOUR + MINUTE))

    assert digests(store, since=timedelta(), until=HOUR) == []

    write(store, row(3, moment=MOMENT - MINUTE), row(4, moment=MOMENT + HOUR + MINUTE - MICROSECOND), token=SECOND)

    assert [(one.inside, one.around) for one in digests(store, since=timedelta(), until=HOUR)] == [(0, 2)]


def test_a_table_that_is_not_there_is_an_error(store: AnyStore) -> None:
    with pytest.raises(StoreUnavailable, match="no_such_table"):
        list(store.digests("no_such_table", since=MOMENT, until=MOMENT + HOUR, slack=MINUTE))


@pytest.mark.only("clickhouse", "chdb", "postgresql", reason="a store in memory has no table but its own")
def test_a_table_is_named_with_or_without_its_schema(
    request: pytest.FixtureRequest, store: AnyStore, subject: SchemaSubject
) -> None:
    write(store, row(1), row(2, context=b"a"))
    subject.execute("CREATE VIEW old_log AS SELECT event_type, event_date_time, event_context FROM event_log")
    schema = {"clickhouse": "conformance", "chdb": "default", "postgresql": "public"}[
        request.node.callspec.params["subject"]
    ]

    expected = digests(store)

    assert len(expected) == 2
    for table in ("event_log", "old_log", f"{schema}.old_log"):
        assert list(store.digests(table, since=MOMENT - HOUR, until=MOMENT + HOUR, slack=MINUTE)) == expected
    subject.execute("DROP VIEW old_log")
