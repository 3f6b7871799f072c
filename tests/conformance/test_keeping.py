"""What retention and erasure ask of a store: months that go, rows that are found, and rows that are rewritten."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tests.conformance.rows import LARGEST, MOMENT, OTHER_WINDOW, SECOND, WINDOW, row, write
from towpath.eventlog.masking import MASK, MASK_JSON, MASK_OF_CONTEXT, cuts
from towpath.eventlog.query import Query, parse
from towpath.eventlog.store import MaskedRow
from towpath.eventlog.stored import StoredEvent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.conformance.subjects import AnyStore, MutableSubject, SchemaSubject, Subject

FEBRUARY, MARCH = date(2024, 2, 1), date(2024, 3, 1)
IN_MARCH = datetime(2024, 3, 1, tzinfo=UTC)
ALL = Query()


def found(store: AnyStore, query: Query = ALL) -> list[StoredEvent]:
    rows = store.read_rows([WINDOW, OTHER_WINDOW], query)
    return sorted(rows, key=lambda event: event.outbox_id)


def masked(events: Sequence[StoredEvent], *path: str, columns: tuple[str, ...] = ()) -> list[MaskedRow]:
    return [MaskedRow(event, tuple(cuts(event.event_context, [path])), columns) for event in events]


def write_actor(store: AnyStore, number: int, actor: str) -> None:
    """A row with an actor, in a write of its own."""
    one = row(number)
    write(store, replace(one, added=(actor, *one.added[1:])), token=f"actor {number}")


def test_a_dropped_month_is_gone_and_its_neighbours_are_not(store: AnyStore, subject: Subject) -> None:
    last, first = MOMENT.replace(hour=23, minute=59, second=59, microsecond=999999), IN_MARCH
    write(
        store, row(1, moment=datetime(2024, 1, 31, 23, 59, 59, 999999, UTC)), row(2, moment=last), row(3, moment=first)
    )

    store.drop_month(date(2024, 2, 17), windows=1)

    assert [one.outbox_id for one in subject.rows()] == [1, 3]
    assert store.months() == [date(2024, 1, 1), MARCH]


def test_a_month_with_more_windows_than_are_known_stays(store: AnyStore, subject: Subject) -> None:
    write(store, row(1))
    write(store, row(2, window=OTHER_WINDOW), token=SECOND)
    write(store, row(3, moment=IN_MARCH), token="third")

    assert store.drop_month(FEBRUARY, windows=1) is False
    assert [one.outbox_id for one in subject.rows()] == [1, 2, 3]

    assert store.drop_month(FEBRUARY, windows=2) is True
    assert [one.outbox_id for one in subject.rows()] == [3]


def test_a_month_that_is_gone_is_dropped_again_without_an_error(store: AnyStore, subject: Subject) -> None:
    write(store, row(1), row(2, moment=IN_MARCH))

    store.drop_month(FEBRUARY, windows=1)
    store.drop_month(FEBRUARY, windows=1)
    store.drop_month(date(1999, 1, 1), windows=1)

    assert [one.outbox_id for one in subject.rows()] == [2]


def test_a_month_that_was_dropped_takes_rows_again(store: AnyStore, subject: Subject) -> None:
    write(store, row(1))
    store.drop_month(FEBRUARY, windows=1)

    write(store, row(2), token=SECOND)

    assert [one.outbox_id for one in subject.rows()] == [2]


@pytest.mark.only("postgresql", reason="no other store has partitions that somebody made by hand")
def test_rows_of_a_month_without_a_partition_of_its_own_are_dropped(store: AnyStore, subject: SchemaSubject) -> None:
    subject.execute(
        "CREATE TABLE event_log_year PARTITION OF event_log FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')"
    )
    subject.execute(
        "INSERT INTO event_log_year (event_type, event_date_time, environment, event_context, metadata_version, outbox,"
        f" outbox_id, window_id) SELECT 'paid', t, 'x', '{{}}', 1, 'outbox_event', 1, '{WINDOW}'"
        " FROM (VALUES ('2023-05-01'::timestamptz), ('2023-06-01')) AS times (t)"
    )

    store.drop_month(date(2023, 5, 1), windows=1)

    assert store.months() == [date(2023, 6, 1)]


def test_windows_are_found_by_a_column_in_a_month(store: AnyStore) -> None:
    write_actor(store, 1, "jane")
    write_actor(store, 2, "john")
    write(store, row(3, window=OTHER_WINDOW, moment=IN_MARCH))

    assert store.find_windows(parse("actor:jane"), month=FEBRUARY) == [WINDOW]
    assert store.find_windows(parse("actor:jane"), month=MARCH) == []
    assert store.find_windows(parse("actor:jane target:x"), month=FEBRUARY) == []
    assert [one.outbox_id for one in found(store, parse("actor:jane"))] == [1]


def test_rows_are_found_by_what_the_query_language_says(store: AnyStore) -> None:
    write(
        store,
        row(1, context=b'{"a": "50%_\'x"}'),
        row(2, context=b'{"a": "other"}'),
        row(3, context=b'{"a": "\\u0061", "n": 9007199254740993}'),
        row(4, context='{"a": "é"}'.encode()),
        row(5, context=b"no JSON"),
    )

    def numbers(query: str) -> list[int]:
        assert bool(store.find_windows(parse(query), month=FEBRUARY)) is bool(found(store, parse(query)))
        return [one.outbox_id for one in found(store, parse(query))]

    assert numbers('context.a:"50%_\'x"') == [1]
    assert numbers("context.a:a OR context.a:é") == [3, 4]
    assert numbers("type:paid -(has:context.a other)") == [1, 3, 4, 5]
    assert numbers("context.n:9007199254740993") == [3]
    assert numbers("context.n:9007199254740992") == []
    assert numbers("JSON -has:context.a outbox_id>=5") == [5]


def test_a_row_is_read_as_it_is_stored(store: AnyStore) -> None:
    write(store, row(1, context='{"a": "é\\n"}'.encode(), own=LARGEST))

    (event,) = found(store)
    (streamed,) = store.stream("paid")

    assert event == streamed
    assert event.event_date_time == MOMENT


def test_a_rewrite_changes_the_cut_parts_and_nothing_else(store: AnyStore, subject: Subject) -> None:
    context = '{ "ü": "ß", "mail":"jäne\\u0040x.y",  "n": 9007199254740993, "deep": {"mail": 1}}'
    write(store, row(1, context=context.encode(), own=LARGEST), row(2, context=context.encode()))
    before = subject.rows()
    first, _ = found(store)
    path = cuts(first.event_context, [("mail",), ("deep",)])

    store.rewrite([MaskedRow(first, tuple(path), ())], mask=MASK_JSON)

    after = subject.rows()
    assert after[1] == before[1]
    assert after[0].event_context.decode() == ('{ "ü": "ß", "mail":"***",  "n": 9007199254740993, "deep": "***"}')
    assert (after[0].added, after[0].event_date_time) == (before[0].added, before[0].event_date_time)
    assert found(store)[0].written_at == first.written_at


def test_a_rewrite_masks_columns_that_are_not_empty(store: AnyStore) -> None:
    write_actor(store, 1, "jane")
    write_actor(store, 2, "")

    store.rewrite(masked(found(store), "none", columns=("actor", "target")), mask=MASK_JSON)

    assert [(one.added["actor"], one.added["target"]) for one in found(store)] == [(MASK, ""), ("", "")]


def test_a_whole_context_is_replaced(store: AnyStore) -> None:
    write(store, row(1, context='{"mail": "é"}'.encode()), row(2, context=b"no JSON"))

    store.rewrite([MaskedRow(one, ((0, len(one.event_context)),), ()) for one in found(store)], mask=MASK_OF_CONTEXT)

    assert [one.event_context for one in found(store)] == [MASK_OF_CONTEXT] * 2


def test_a_rewrite_that_is_repeated_changes_nothing(store: AnyStore, subject: Subject) -> None:
    write(store, row(1, context=b'{"mail": "a-longer-one", "n": 1}'), row(2, context=b'{"mail": 12345, "n": 1}'))
    rows = masked(found(store), "mail")

    store.rewrite(rows, mask=MASK_JSON)
    once = subject.rows()
    store.rewrite(rows, mask=MASK_JSON)

    assert [one.event_context for one in once] == [b'{"mail": "***", "n": 1}'] * 2
    assert subject.rows() == once


def test_rows_of_many_windows_and_months_are_rewritten(store: AnyStore, subject: Subject) -> None:
    write(store, *(row(number, context=b'{"mail": %d}' % number) for number in range(1, 701)))
    write(
        store,
        *(row(number, window=OTHER_WINDOW, moment=IN_MARCH, context=b'{"mail": 1}') for number in range(701, 711)),
        token=SECOND,
    )

    store.rewrite(masked(found(store), "mail"), mask=MASK_JSON)

    assert {one.event_context for one in subject.rows()} == {b'{"mail": "***"}'}
    assert len(subject.rows()) == 710


def test_digests_of_the_rows_of_several_windows_are_those_of_each(store: AnyStore) -> None:
    write(store, row(2), row(1), row(3, window=OTHER_WINDOW, moment=IN_MARCH))
    columns = store.covered_columns()

    assert store.row_digests_of([WINDOW, OTHER_WINDOW, UUID(int=1)], columns=columns) == {
        window: store.row_digests(window, columns=columns) for window in (WINDOW, OTHER_WINDOW)
    }
    assert len(store.row_digests(WINDOW, columns=columns)) == 2


def test_who_may_do_everything_may_drop_and_rewrite(store: AnyStore) -> None:
    assert [*store.keeping_problems("drop"), *store.keeping_problems("rewrite")] == []


def test_no_row_is_no_statement(store: AnyStore) -> None:
    store.rewrite([], mask=MASK_JSON)


@pytest.mark.only("clickhouse", "chdb", reason="no other store keeps the text of what has changed rows")
def test_a_mutation_holds_no_value_of_a_row(store: AnyStore, subject: MutableSubject) -> None:
    write(store, row(1, context=b'{"mail": "jane@example.com", "name": "Jane"}'))

    store.rewrite(masked(found(store), "mail"), mask=MASK_JSON)

    commands = subject.mutations()
    assert commands
    assert not [command for command in commands if "jane" in command.lower()]
