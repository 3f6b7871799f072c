"""NULL, which somebody has let into a column: no row of it gets out of sight."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from tests.conformance.bodies import EXACT, EXACT_ADDED, copied
from tests.conformance.reference import same_as_reference
from tests.conformance.rows import COLUMNS, FIRST, LARGEST, MOMENT, OTHER_WINDOW, OWN_COLUMNS, WINDOW, own, row, write
from tests.conformance.subjects import AnyStore, SchemaSubject, can_be_edited
from towpath.eventlog.columns import Kind
from towpath.eventlog.query import Query
from towpath.eventlog.stored import StoredEvent, streamed_kinds
from towpath.eventlog.stores.clickhouse import schema as schema_of_clickhouse
from towpath.eventlog.stores.postgresql.store import PostgreSQLStore
from towpath.eventlog.values import DEFAULTS, EARLIEST, NO_WINDOW, TOO_LATE
from towpath.eventlog.values import parse as parse_value

if TYPE_CHECKING:
    from collections.abc import Iterable

SORTING_KEY = ("event_date_time", "outbox", "outbox_id")


def allow_null(subject: SchemaSubject, *columns: str) -> None:
    for column in columns:
        if isinstance(subject.store, PostgreSQLStore):
            subject.execute(f"ALTER TABLE event_log ALTER {column} DROP NOT NULL")
            continue
        kind = schema_of_clickhouse.column_types(OWN_COLUMNS)[column]
        nullable = kind.replace("(String)", "(Nullable(String))") if "(String)" in kind else f"Nullable({kind})"
        subject.execute(f"ALTER TABLE event_log MODIFY COLUMN {column} {nullable}")


@can_be_edited
@pytest.mark.parametrize("column", [f"own_{kind.name.lower()}" for kind in Kind])
def test_null_has_the_digest_of_the_form(store: AnyStore, subject: SchemaSubject, column: str) -> None:
    write(store, row(1), row(2))
    allow_null(subject, column)
    assert same_as_reference(store, row(1), row(2))

    subject.edit(f"{column} = NULL", where="outbox_id = 2")

    assert same_as_reference(store, row(1), replace(row(2), added=own(**{column: None})))


@can_be_edited
def test_null_is_told_from_every_value_in_what_was_loaded(exact: AnyStore, subject: SchemaSubject) -> None:
    body = copied([replace(row(1), added=EXACT_ADDED)])
    exact.write(body, row_count=1, token=FIRST)
    seen = {sha256(body).hexdigest()}
    names = [column.name for column in EXACT]
    allow_null(subject, *names)

    for name in names:
        subject.edit(f"{name} = NULL", where="outbox_id = 1")
        (digest,) = exact.body_digests({WINDOW: ["outbox_event"]}).values()
        assert digest not in seen, name
        seen.add(digest)


@can_be_edited
def test_a_row_without_a_window_is_found_and_digested(store: AnyStore, subject: SchemaSubject) -> None:
    if not isinstance(store, PostgreSQLStore):
        subject.execute("ALTER TABLE event_log DROP INDEX window_id_bloom")
    write(store, row(1), row(2, window=OTHER_WINDOW))
    allow_null(subject, "window_id")
    (before,) = store.row_digests(OTHER_WINDOW, columns=COLUMNS)

    subject.edit("window_id = NULL", where="outbox_id = 2")

    assert sorted(store.windows_of(MOMENT.date())) == [NO_WINDOW, WINDOW]
    found = store.window_digests([NO_WINDOW, WINDOW], columns=COLUMNS)
    assert [(one.window_id, one.rows) for one in found] == [(NO_WINDOW, 1), (WINDOW, 1)]
    (after,) = store.row_digests(NO_WINDOW, columns=COLUMNS)
    assert (after.outbox_id, after.digest == before.digest) == (2, False)
    assert store.window_digests([WINDOW, OTHER_WINDOW], columns=COLUMNS) == [found[1]]


@can_be_edited
@pytest.mark.parametrize("column", [name for name in streamed_kinds(OWN_COLUMNS) if name not in SORTING_KEY])
def test_null_is_read_as_the_default_of_its_kind(store: AnyStore, subject: SchemaSubject, column: str) -> None:
    if column == "window_id" and not isinstance(store, PostgreSQLStore):
        subject.execute("ALTER TABLE event_log DROP INDEX window_id_bloom")
    null_is_read_as_the_default(store, subject, column)


@pytest.mark.only("postgresql", reason="the sorting key of the others holds no NULL")
@pytest.mark.parametrize("column", SORTING_KEY)
def test_null_in_the_sorting_key_is_read_as_the_default_of_its_kind(
    store: AnyStore, subject: SchemaSubject, column: str
) -> None:
    subject.execute("CREATE TABLE event_log_rest PARTITION OF event_log DEFAULT")
    null_is_read_as_the_default(store, subject, column)


def null_is_read_as_the_default(store: AnyStore, subject: SchemaSubject, column: str) -> None:
    write(store, row(1, version=7), row(2, own=LARGEST))
    allow_null(subject, column)

    subject.edit(f"{column} = NULL", where="outbox_id = 2")

    def values(events: Iterable[StoredEvent]) -> list[object]:
        return [event.value(column) for event in events if event.metadata_version != 7]

    kind = streamed_kinds(OWN_COLUMNS)[column]
    default = [parse_value(kind, DEFAULTS[kind])]
    windows = {window for month in store.months() for window in store.find_windows(Query(), month=month)}
    # As the audits say it, so that the row's month is theirs.
    first = [datetime(2, 1, 1, tzinfo=UTC)]
    assert values(store.read_rows(list(windows), Query())) == (first if column == "event_date_time" else default)
    assert values(store.stream("paid")) == ([] if column == "event_type" else default)
    found = store.search(Query(), since=EARLIEST, until=TOO_LATE, rows=10, seconds=20)
    bars = store.histogram(Query(), since=EARLIEST, until=TOO_LATE, step=timedelta(days=1), seconds=20)
    # Without a time, a row is in no range of times.
    assert values(one.event for one in found) == ([] if column == "event_date_time" else default)
    assert sum(bar.events for bar in bars) == len(found)
    assert found.are_whole


@pytest.mark.only("postgresql", reason="the sorting key of the others holds no NULL")
def test_a_row_without_an_identity_and_a_time_is_found_and_digested(store: AnyStore, subject: SchemaSubject) -> None:
    subject.execute("CREATE TABLE event_log_rest PARTITION OF event_log DEFAULT")
    allow_null(subject, "outbox", "outbox_id", "window_id", "event_type", "event_date_time")

    subject.execute("INSERT INTO event_log (environment, metadata_version, event_context) VALUES ('', 1, '')")

    (month,) = store.months()
    assert list(store.windows_of(month)) == [NO_WINDOW]
    (found,) = store.window_digests([NO_WINDOW], columns=COLUMNS)
    (one,) = store.row_digests(NO_WINDOW, columns=COLUMNS)
    assert (found.outbox, found.month, found.rows, found.id_sum) == ("", month, 1, 0)
    assert (one.outbox, one.outbox_id, one.month, one.event_type) == ("", 0, month, "")
