"""The store conformance suite: what the pipeline relies on, shown of every store. Here: the schema, and writing.

Expectations are written by hand. A new store is one more subject (subjects.py) and passes all of it, or is left out of
a test by `only`, with the reason (docs/stores.md).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from tests.conformance.rows import FIRST, MOMENT, SECOND, WINDOW, copy_text, row, write
from tests.conformance.subjects import SchemaSubject, Subject
from towpath.eventlog import schema
from towpath.eventlog.errors import RowsRefused
from towpath.eventlog.store import Store

has_a_schema = pytest.mark.only("clickhouse", "chdb", "postgresql", reason="memory has no schema that could be wrong")
has_settings = pytest.mark.only(
    "clickhouse", "chdb", reason="PostgreSQL keeps its promises without settings of a table"
)


# --- The schema ------------------------------------------------------------------------------------------------------


@has_a_schema
def test_migrating_a_second_time_does_nothing(subject: SchemaSubject) -> None:
    schema.migrate(subject.store)

    assert list(schema.migrate(subject.store)) == []


@has_a_schema
def test_a_migrated_store_has_no_problems(store: Store) -> None:
    assert list(store.problems()) == []


@has_a_schema
def test_migrations_at_the_same_time_apply_each_step_once(subject: SchemaSubject) -> None:
    def migrate(_: int) -> list[int]:
        try:
            return [migration.number for migration in schema.migrate(subject.store)]
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        applied = [number for numbers in pool.map(migrate, range(4)) for number in numbers]

    assert applied == [migration.number for migration in subject.store.migrations()]


@has_a_schema
def test_a_migration_that_was_done_but_not_recorded_is_done_again(store: Store, subject: SchemaSubject) -> None:
    """As after a crash between the two."""
    write(store, row(1))
    subject.execute("DROP TABLE event_log_migration")

    schema.migrate(store)

    assert list(store.problems()) == []
    assert subject.rows() == [row(1)]
    assert {one.state for one in schema.states(store)} == {"applied"}


@has_a_schema
def test_a_store_without_a_table_says_how_to_get_one(subject: SchemaSubject) -> None:
    (problem,) = subject.store.problems()

    assert "eventlog migrate" in problem


@has_a_schema
def test_a_user_that_reads_every_column_has_no_problem_with_reading(store: Store, subject: SchemaSubject) -> None:
    assert list(store.reading_problems()) == []

    subject.execute("ALTER TABLE event_log DROP COLUMN outcome")

    assert list(store.reading_problems()) == []


@has_a_schema
def test_a_missing_column_is_named(store: Store, subject: SchemaSubject) -> None:
    subject.execute("ALTER TABLE event_log DROP COLUMN event_context")

    (problem,) = store.problems()

    assert "column event_context is missing" in problem


@has_settings
@pytest.mark.parametrize(
    "setting", ["non_replicated_deduplication_window", "fsync_after_insert", "fsync_part_directory"]
)
def test_a_missing_setting_is_named_with_what_to_do(store: Store, subject: SchemaSubject, setting: str) -> None:
    subject.execute(f"ALTER TABLE event_log RESET SETTING {setting}")

    (problem,) = store.problems()

    assert setting in problem
    assert "ALTER TABLE" in problem


# --- Bytes and times -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "context",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"a\tb", id="tab"),
        pytest.param(b"a\nb\r\nc\r", id="line ends"),
        pytest.param(b'{"a": "b\\\\c\\n\\t\\u0001"}\\', id="backslashes"),
        pytest.param(bytes(range(1, 32)) + b"\x7f", id="control characters"),
        pytest.param("😀 é \u2028 \x85 \ufeff \U0010ffff".encode(), id="beyond ASCII"),
        pytest.param(b"\\N", id="what COPY writes for NULL"),
        pytest.param(b"NULL", id="NULL"),
        pytest.param(b"\\.", id="what ends COPY"),
        pytest.param(b"'\"`;--/*", id="quotes"),
        pytest.param(b" blanks around ", id="blanks"),
        pytest.param(b"x" * 2**20, id="1 MiB"),
    ],
)
def test_a_context_is_stored_byte_for_byte(store: Store, subject: Subject, context: bytes) -> None:
    write(store, row(1, context=context), row(2, context=b"{}"))

    assert subject.rows() == [row(1, context=context), row(2)]


def test_every_column_is_stored_as_it_came(store: Store, subject: Subject) -> None:
    rows = [
        row(1, event_type="a type\twith\na tab", version=0),
        row(2**63 - 1, outbox="outbox_user", version=2**63 - 1),
    ]

    write(store, *rows)

    assert subject.rows() == rows


@pytest.mark.parametrize(
    "moment",
    [
        datetime(1900, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2024, 2, 29, 23, 59, 59, 1, tzinfo=UTC),
        datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
        datetime(2107, 6, 30, 1, 2, 3, 456789, tzinfo=UTC),
        datetime(2299, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
    ids=str,
)
def test_a_time_is_stored_to_the_microsecond(store: Store, subject: Subject, moment: datetime) -> None:
    write(store, row(1, moment=moment))

    assert subject.rows() == [row(1, moment=moment)]


def test_a_time_without_a_fraction_is_read(store: Store, subject: Subject) -> None:
    whole_second = copy_text(row(1)).replace(b".123456+00", b"+00")

    store.write(whole_second, row_count=1, token=FIRST)

    assert subject.rows() == [row(1, moment=MOMENT.replace(microsecond=0))]


def test_rows_of_ten_years_are_one_write(store: Store, subject: Subject) -> None:
    rows = [row(month + 1, moment=datetime(2010 + month // 12, 1 + month % 12, 3, tzinfo=UTC)) for month in range(120)]

    write(store, *rows)

    assert subject.rows() == rows


# --- Tokens ----------------------------------------------------------------------------------------------------------


def test_the_same_token_stores_once(store: Store, subject: Subject) -> None:
    write(store, row(1), row(2))
    write(store, row(1), row(2))

    assert subject.rows() == [row(1), row(2)]


def test_the_same_token_with_other_rows_is_dropped(store: Store, subject: Subject) -> None:
    write(store, row(1))
    write(store, row(2), row(3))

    assert subject.rows() == [row(1)]


def test_another_token_stores_again(store: Store, subject: Subject) -> None:
    write(store, row(1), token=FIRST)
    write(store, row(1), token=SECOND)

    assert subject.rows() == [row(1), row(1)]


def test_of_a_token_for_two_months_only_the_missing_month_is_stored(store: Store, subject: Subject) -> None:
    # Given a write that got no further than its first month
    january, february = row(1, moment=datetime(2024, 1, 31, tzinfo=UTC)), row(2)
    write(store, january)

    # When all of it is written again
    write(store, january, february)

    assert subject.rows() == [january, february]


def test_a_token_is_remembered_over_many_other_writes(store: Store, subject: Subject) -> None:
    write(store, row(1), token=FIRST)
    for number in range(2, 30):
        write(store, row(number), token=f"token {number}")

    write(store, row(1), token=FIRST)

    assert subject.rows() == [row(number) for number in range(1, 30)]


def test_a_refused_write_does_not_use_its_token_up(store: Store, subject: Subject) -> None:
    with pytest.raises(RowsRefused):
        store.write(copy_text(row(1)).replace(b"2024", b"infinity"), row_count=1, token=FIRST)

    write(store, row(1))

    assert subject.rows() == [row(1)]


# --- Refused rows ----------------------------------------------------------------------------------------------------

REFUSED = {
    "a time of infinity": copy_text(row(2)).replace(b"2024-02-29 12:30:15.123456+00", b"infinity"),
    "a time that is none": copy_text(row(2)).replace(b"2024-02-29 12:30:15.123456+00", b"soon"),
    "no time": copy_text(row(2)).replace(b"2024-02-29 12:30:15.123456+00", b""),
    "a number that is none": copy_text(row(2)).replace(b"\t2\t", b"\ttwo\t", 1),
    "a window id that is none": copy_text(row(2)).replace(str(WINDOW).encode(), b"not-a-uuid"),
    "a column too few": copy_text(row(2)).replace(b"outbox_event\t", b"", 1),
    "a column too many": copy_text(row(2)).replace(b"\n", b"\tmore\n"),
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_refused_row_keeps_the_whole_write_out(store: Store, subject: Subject, refused: bytes, place: int) -> None:
    lines = [copy_text(row(1, moment=MOMENT - timedelta(days=60))), copy_text(row(3))]
    lines.insert(place, refused)

    with pytest.raises(RowsRefused):
        store.write(b"".join(lines), row_count=3, token=FIRST)

    assert subject.rows() == []


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
def test_a_refusal_quotes_no_payload(store: Store, refused: bytes) -> None:
    secrets = copy_text(row(1, context=b'{"password": "hunter2"}', event_type="hunter2"))

    with pytest.raises(RowsRefused) as caught:
        store.write(secrets + refused.replace(b"{}", b"hunter2") + secrets, row_count=3, token=FIRST)

    assert "hunter2" not in str(caught.value)
    assert str(caught.value)
