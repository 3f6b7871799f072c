"""The digests of a proof: in every store those of the form (`towpath.eventlog.proof`, tests/unit/test_proof.py)."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings

from tests.conformance.any_rows import any_rows
from tests.conformance.bodies import EXACT_ADDED, copied
from tests.conformance.reference import reference, same_as_reference
from tests.conformance.rows import (
    COLUMNS,
    LARGEST,
    MOMENT,
    OTHER_WINDOW,
    OWN_COLUMNS,
    SECOND,
    SMALLEST,
    TEXTS,
    WINDOW,
    own,
    row,
    write,
)
from tests.conformance.subjects import AnyStore, SchemaSubject, Subject, can_be_edited
from towpath.eventlog.proof import WindowDigest, changed_row, covered
from towpath.eventlog.stores.clickhouse import store as of_engine
from towpath.eventlog.stores.clickhouse.settings import PINNED_ON_DECISIONS
from towpath.eventlog.stores.memory import StoredRow
from towpath.eventlog.stores.postgresql.store import PostgreSQLStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def of_window(store: AnyStore, columns: Sequence[str] = COLUMNS) -> Sequence[WindowDigest]:
    return store.window_digests([WINDOW], columns=columns)


# --- The form --------------------------------------------------------------------------------------------------------


def test_the_largest_and_the_smallest_values_have_the_digests_of_the_form(store: AnyStore) -> None:
    rows = [row(1, own=LARGEST), row(2, own=SMALLEST), row(2**63 - 1, version=2**63 - 1), row(0, version=0)]

    write(store, *rows)

    assert same_as_reference(store, *rows)


VALUES: dict[str, Sequence[object]] = {
    "own_text": TEXTS,
    "own_low_cardinality_text": TEXTS,
    "own_boolean": (True, False),
    "own_signed_number": (-1, 0, 10, -(2**63)),
    "own_decimal": tuple(map(Decimal, ("-0.000000001", "0", "-0", "1.5", "-10", "100000000000000000000.1"))),
    "own_float": (0.0, -0.0, 1e308, -1e308, 5e-324, 0.1, 1 / 3, 1e21, 1e16, 123456789.0, 2.2250738585072014e-308),
    "own_time": (
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2262, 4, 12, 1, 2, 3, 456789, tzinfo=UTC),
    ),
    "own_uuid": (UUID("abcdefab-cdef-abcd-efab-cdefabcdefab"), UUID(int=1)),
}


@pytest.mark.parametrize("column", VALUES)
def test_a_value_of_each_kind_has_the_digest_of_the_form(store: AnyStore, column: str) -> None:
    rows = [replace(row(number), added=own(**{column: value})) for number, value in enumerate(VALUES[column])]

    write(store, *rows)

    assert same_as_reference(store, *rows)


def test_any_text_has_the_digest_of_the_form(store: AnyStore) -> None:
    rows = [
        replace(row(number, event_type=text, outbox=text, context=text.encode()), environment=text)
        for number, text in enumerate(TEXTS)
    ]

    write(store, *rows)

    assert same_as_reference(store, *rows)


def test_the_time_of_writing_is_covered(store: AnyStore, subject: Subject) -> None:
    write(store, row(1), row(2))
    events = list(store.stream("paid"))
    rows = [replace(one, written_at=event.written_at) for one, event in zip(subject.rows(), events, strict=True)]
    columns = covered(OWN_COLUMNS)

    assert of_window(store, columns) == of_window(reference(rows), columns)


def test_a_window_has_a_digest_for_each_outbox_and_month(store: AnyStore) -> None:
    rows = [
        row(number, outbox=outbox, moment=moment, window=window)
        for window in (WINDOW, OTHER_WINDOW)
        for outbox in ("outbox_user", "outbox_event", "Outbox")
        for moment in (MOMENT, datetime(2024, 3, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC))
        for number in (1, 2)
    ]

    write(store, *rows)

    assert same_as_reference(store, *rows)
    assert [(one.outbox, one.month, one.rows) for one in of_window(store)] == [
        (outbox, month, 2)
        for outbox in ("Outbox", "outbox_event", "outbox_user")
        for month in (date(1969, 12, 1), date(2024, 2, 1), date(2024, 3, 1))
    ]


def test_hundreds_of_windows_are_digested_in_one_query(store: AnyStore) -> None:
    rows = [row(number, window=UUID(int=number)) for number in range(300)]

    write(store, *rows)

    windows = [UUID(int=number) for number in range(600)]
    found = store.window_digests(windows, columns=COLUMNS)
    assert [one.window_id for one in found] == windows[:300]
    assert list(found) == reference(rows).window_digests(windows, columns=COLUMNS)


def test_digests_that_end_in_zeros_are_whole(store: AnyStore) -> None:
    """Some functions of a store take a text to end before its zeros."""
    rows = [row(number) for number in range(600)]
    assert any(one.digest.endswith("00") for one in reference(rows).row_digests(WINDOW, columns=COLUMNS))

    write(store, *rows)

    assert same_as_reference(store, *rows)


def test_sums_are_exact_beyond_64_bits(store: AnyStore) -> None:
    rows = [row(2**63 - 1 - number) for number in range(200)]

    write(store, *rows)

    (found,) = of_window(store)
    assert found.id_sum > 2**115
    assert same_as_reference(store, *rows)


def test_nothing_is_digested_of_a_window_without_rows(store: AnyStore) -> None:
    write(store, row(1))

    assert store.window_digests([OTHER_WINDOW], columns=COLUMNS) == []
    assert store.window_digests([], columns=COLUMNS) == []
    assert store.row_digests(OTHER_WINDOW, columns=COLUMNS) == []


def test_a_column_that_the_log_does_not_have_is_named(store: AnyStore) -> None:
    for ask in (
        lambda: store.window_digests([WINDOW], columns=["outbox", "no_such_column"]),
        lambda: store.row_digests(WINDOW, columns=["no_such_column"]),
    ):
        write(store, row(1))
        with pytest.raises(ValueError, match="no_such_column"):
            ask()


#: What a profile of ClickHouse's may set: each has to do with text, time zones, or the way to an answer.
_PROFILE = {
    "bool_true_representation": "yes",
    "bool_false_representation": "no",
    "date_time_output_format": "unix_timestamp",
    "session_timezone": "Asia/Kathmandu",
    "output_format_tsv_crlf_end_of_line": "1",
    "output_format_decimal_trailing_zeros": "1",
    "formatdatetime_f_prints_single_zero": "1",
    "enable_extended_results_for_datetime_functions": "1",
    "optimize_use_implicit_projections": "0",
    "short_circuit_function_evaluation": "disable",
    "max_block_size": "1",
    "group_by_two_level_threshold": "1",
    "max_bytes_before_external_group_by": "1",
    "max_bytes_before_external_sort": "1",
}
#: What a database of PostgreSQL's may set.
_OF_DATABASE = {
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "DateStyle": "German, DMY",
    "TimeZone": "Asia/Kathmandu",
    "IntervalStyle": "sql_standard",
    "standard_conforming_strings": "off",
    "escape_string_warning": "off",
    "quote_all_identifiers": "on",
    "work_mem": "64kB",
}


@pytest.fixture
def changed_settings(store: AnyStore, subject: SchemaSubject, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The sessions in which digests are computed have other settings."""
    of_database = _OF_DATABASE if isinstance(store, PostgreSQLStore) else {}
    for name, value in of_database.items():
        subject.execute(f"ALTER DATABASE conformance SET {name} = '{value}'")
    monkeypatch.setattr(of_engine, "PINNED_ON_DECISIONS", {**PINNED_ON_DECISIONS, **_PROFILE})
    store.close()
    yield
    for name in of_database:
        subject.execute(f"ALTER DATABASE conformance RESET {name}")


@can_be_edited
@pytest.mark.usefixtures("changed_settings")
def test_no_setting_of_a_session_changes_a_digest(store: AnyStore, exact: AnyStore) -> None:
    rows = [
        row(1, own=LARGEST),
        row(2, own=SMALLEST),
        row(3, context=b"a\\\t\n\r\v'\"", moment=MOMENT.replace(month=3)),
    ]
    body = copied([replace(row(4, window=OTHER_WINDOW), added=EXACT_ADDED)])

    write(store, *rows)
    exact.write(body, row_count=1, token=SECOND)

    assert same_as_reference(store, *rows)
    assert exact.body_digests({OTHER_WINDOW: ["outbox_event"]}) == {OTHER_WINDOW: sha256(body).hexdigest()}
    assert list(store.months()) == [date(2024, 2, 1), date(2024, 3, 1)]
    assert set(store.windows_of(date(2024, 2, 1))) == {WINDOW, OTHER_WINDOW}


# --- What a digest shows ---------------------------------------------------------------------------------------------


def test_the_order_of_rows_is_nothing(store: AnyStore) -> None:
    rows = [row(number) for number in range(20)]
    shuffled = random.sample(rows, len(rows))

    write(store, *shuffled)

    assert list(of_window(store)) == of_window(reference(rows))


def test_a_row_that_is_stored_twice_is_seen(store: AnyStore) -> None:
    write(store, row(1), row(2))
    (before,) = of_window(store)

    write(store, row(2), token=SECOND)

    (after,) = of_window(store)
    assert (before.rows, after.rows) == (2, 3)
    assert after.digest != before.digest
    assert changed_row(before.sums, after.sums, ids=[1, 2, 2]) == 2
    assert [one.outbox_id for one in store.row_digests(WINDOW, columns=COLUMNS)] == [1, 2, 2]


def test_what_moves_from_a_column_to_its_neighbour_is_seen(store: AnyStore) -> None:
    rows = [
        replace(row(1), added=own(actor="ab", request_id="c")),
        replace(row(1), added=own(actor="a", request_id="bc")),
        replace(row(1), added=own(actor="ab1:c", request_id="")),
    ]

    write(store, *rows)

    assert len({one.digest for one in store.row_digests(WINDOW, columns=COLUMNS)}) == 3


CHANGED: dict[str, StoredRow] = {
    "outbox": row(1, outbox="outbox_user"),
    "outbox_id": row(2),
    "window_id": row(1, window=OTHER_WINDOW),
    "event_type": row(1, event_type="Paid"),
    "event_date_time": row(1, moment=MOMENT + timedelta(microseconds=1)),
    "environment": replace(row(1), environment="Test"),
    "metadata_version": row(1, version=2),
    "event_context": row(1, context=b"{ }"),
    **{name: replace(row(1), added=own(**{name: "a"})) for name in ("actor", "request_id", "ip", "target", "outcome")},
    "own_text": replace(row(1), added=own(own_text=" ")),
    "own_low_cardinality_text": replace(row(1), added=own(own_low_cardinality_text="\x01")),
    "own_boolean": replace(row(1), added=own(own_boolean=True)),
    "own_whole_number": replace(row(1), added=own(own_whole_number=1)),
    "own_signed_number": replace(row(1), added=own(own_signed_number=-1)),
    "own_decimal": replace(row(1), added=own(own_decimal=Decimal("0.000000001"))),
    "own_float": replace(row(1), added=own(own_float=-0.0)),
    "own_time": replace(row(1), added=own(own_time=datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC))),
    "own_uuid": replace(row(1), added=own(own_uuid=UUID(int=1))),
}


def test_a_change_of_any_column_changes_the_digest(store: AnyStore) -> None:
    assert tuple(CHANGED) == COLUMNS

    write(store, row(1))
    for name, changed in CHANGED.items():
        write(store, changed, token=name)

    digests = [one.digest for window in (WINDOW, OTHER_WINDOW) for one in store.row_digests(window, columns=COLUMNS)]
    assert len(digests) == len(set(digests)) == 1 + len(CHANGED)


#: Those that no store keeps from being edited in place, with another value.
EDITS = {
    "environment": "'Test'",
    "metadata_version": "2",
    "event_context": "'{ }'",
    "written_at": "'2024-02-29 12:30:15.000001'",
    "target": "'a'",
    "outcome": "'a'",
    "own_text": "' '",
    "own_low_cardinality_text": "'a'",
    "own_boolean": "true",
    "own_whole_number": "1",
    "own_signed_number": "-1",
    "own_decimal": "0.000000001",
    "own_float": "5e-324",
    "own_time": "'1970-01-01 00:00:00.000001'",
    "own_uuid": "'00000000-0000-0000-0000-000000000001'",
}


@can_be_edited
def test_a_row_that_was_edited_is_named(store: AnyStore, subject: SchemaSubject) -> None:
    columns = covered(OWN_COLUMNS)
    write(store, *(row(number) for number in (3, 5, 8)))
    (before,) = of_window(store, columns)
    rows_before = {one.outbox_id: one.digest for one in store.row_digests(WINDOW, columns=columns)}

    for column, value in EDITS.items():
        subject.edit(f"{column} = {value}", where="outbox_id = 5")

        (after,) = of_window(store, columns)
        assert after.digest != before.digest, column
        assert changed_row(before.sums, after.sums, ids=[3, 5, 8]) == 5
        before = after

    rows_after = {one.outbox_id: one.digest for one in store.row_digests(WINDOW, columns=columns)}
    assert {id_ for id_, digest in rows_after.items() if digest != rows_before[id_]} == {5}


@can_be_edited
def test_a_row_that_is_gone_is_named(store: AnyStore, subject: SchemaSubject) -> None:
    write(store, *(row(number) for number in (3, 5, 8)))
    (before,) = of_window(store)

    subject.execute("DELETE FROM event_log WHERE outbox_id = 8")

    (after,) = of_window(store)
    assert after.rows == 2
    assert changed_row(before.sums, after.sums, ids=[3, 5]) == 8


@can_be_edited
def test_a_window_that_is_gone_has_no_digest(store: AnyStore, subject: SchemaSubject) -> None:
    write(store, row(7), row(1, window=OTHER_WINDOW))
    assert len(of_window(store)) == 1

    subject.execute(f"DELETE FROM event_log WHERE window_id = '{WINDOW}'")

    assert of_window(store) == []


@can_be_edited
def test_a_new_column_changes_no_digest_of_the_others(store: AnyStore, subject: SchemaSubject) -> None:
    write(store, row(1), row(2))
    before = of_window(store)

    subject.execute("ALTER TABLE event_log ADD COLUMN added_later text")

    assert of_window(store) == before


def test_only_what_is_covered_is_digested(store: AnyStore) -> None:
    write(store, row(1), row(1, context=b"other"))

    with_context, without = (
        {one.digest for one in store.row_digests(WINDOW, columns=columns)}
        for columns in (["outbox", "event_context"], ["outbox"])
    )

    assert (len(with_context), len(without)) == (2, 1)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=any_rows(OWN_COLUMNS))
def test_any_rows_have_the_digests_of_the_form(store: AnyStore, rows: list[StoredRow]) -> None:
    window = uuid4()
    rows = [replace(one, window_id=window) for one in rows]

    write(store, *rows, token=f"{window}")

    assert same_as_reference(store, *rows)
