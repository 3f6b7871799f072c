"""The months that hold rows, and the windows of each: what an audit walks over."""

from __future__ import annotations

from datetime import UTC, date, datetime
from uuid import uuid4

import pytest

from tests.conformance.rows import OTHER_WINDOW, SECOND, WINDOW, row, write
from tests.conformance.subjects import AnyStore, SchemaSubject, can_be_edited
from towpath.eventlog.stores.clickhouse import proof as of_clickhouse
from towpath.eventlog.stores.postgresql import proof as of_postgresql


def test_the_months_that_hold_rows_are_told(store: AnyStore) -> None:
    assert list(store.months()) == []
    moments = [
        datetime(2299, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1900, 1, 1, tzinfo=UTC),
        datetime(2024, 1, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2024, 2, 1, tzinfo=UTC),
        datetime(2024, 2, 29, tzinfo=UTC),
    ]

    write(store, *(row(number, moment=moment) for number, moment in enumerate(moments)))

    months = [date(1900, 1, 1), date(2024, 1, 1), date(2024, 2, 1), date(2299, 12, 1)]
    assert list(store.months()) == months
    for month in months:
        assert list(store.windows_of(month)) == [WINDOW]
    assert list(store.windows_of(date(2024, 3, 1))) == []


@can_be_edited
def test_a_month_whose_rows_are_gone_is_not_told(store: AnyStore, subject: SchemaSubject) -> None:
    write(store, row(1), row(2, moment=datetime(2024, 3, 1, tzinfo=UTC)))

    subject.execute("DELETE FROM event_log WHERE outbox_id = 1")

    assert list(store.months()) == [date(2024, 3, 1)]
    assert list(store.windows_of(date(2024, 2, 1))) == []


@pytest.mark.only("postgresql", reason="in the others, nobody chooses what a partition holds")
def test_months_in_a_partition_of_another_shape_are_told(store: AnyStore, subject: SchemaSubject) -> None:
    subject.execute(
        "CREATE TABLE event_log_old PARTITION OF event_log"
        " FOR VALUES FROM ('2001-01-01 00:00:00+00') TO ('2002-01-01 00:00:00+00')"
    )
    subject.execute('CREATE TABLE "event log\'s rest" PARTITION OF event_log DEFAULT')
    write(store, row(1))

    for time in ("2001-02-03", "2001-05-06", "1999-07-08"):
        subject.execute(
            "INSERT INTO event_log (outbox, outbox_id, window_id, event_type, event_date_time, environment,"
            " metadata_version, event_context)"
            f" SELECT 'a', 1, gen_random_uuid(), 'paid', '{time} 00:00:00+00', '', 1, ''"
        )

    assert store.months() == [date(1999, 7, 1), date(2001, 2, 1), date(2001, 5, 1), date(2024, 2, 1)]


def test_windows_of_a_month_come_once_and_in_order_over_several_pages(
    store: AnyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (of_clickhouse, of_postgresql):
        monkeypatch.setattr(module, "PAGE_WINDOWS", 4)
    windows = [uuid4() for _ in range(20)]
    write(store, *(row(number, window=windows[number % 20]) for number in range(60)))
    write(store, row(1, window=OTHER_WINDOW, moment=datetime(2024, 3, 1, tzinfo=UTC)), token=SECOND)

    assert list(store.windows_of(date(2024, 2, 14))) == sorted(windows)
