"""Every store reads back, counts and streams what it was given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tests.conformance.rows import (
    FIRST,
    LARGEST,
    MOMENT,
    OTHER_WINDOW,
    OWN_COLUMNS,
    SECOND,
    SMALLEST,
    WINDOW,
    copy_text,
    escaped,
    row,
    write,
)
from tests.conformance.subjects import AnyStore, Subject
from towpath.eventlog.columns import ADDED_COLUMNS, added_columns
from towpath.eventlog.errors import OutcomeUnknown
from towpath.eventlog.stored import StoredEvent

# --- Reading back ----------------------------------------------------------------------------------------------------


def test_of_an_unknown_window_nothing_is_read_back(store: AnyStore) -> None:
    write(store, row(1))

    assert store.read_back(uuid4()) == set()


def test_windows_are_read_back_each_by_itself(store: AnyStore) -> None:
    write(store, row(1), row(2), row(1, outbox="outbox_user"), token=FIRST)
    write(store, row(3, window=OTHER_WINDOW), token=SECOND)

    assert store.read_back(WINDOW) == {("outbox_event", 1), ("outbox_event", 2), ("outbox_user", 1)}
    assert store.read_back(OTHER_WINDOW) == {("outbox_event", 3)}


def test_a_window_of_several_months_is_read_back_whole(store: AnyStore) -> None:
    write(store, *(row(month, moment=datetime(2024, month, 1, tzinfo=UTC)) for month in range(1, 13)))

    assert store.read_back(WINDOW) == {("outbox_event", month) for month in range(1, 13)}


def test_what_is_written_is_read_back_at_once(store: AnyStore) -> None:
    for number in range(1, 20):
        write(store, row(number), token=f"token {number}")

        assert ("outbox_event", number) in store.read_back(WINDOW)


def test_windows_are_counted_by_outbox(store: AnyStore) -> None:
    write(store, row(1), row(2), row(1, outbox="outbox_user"), row(3, window=OTHER_WINDOW), token=FIRST)
    write(store, row(4, window=uuid4()), token=SECOND)

    counts = store.counts([WINDOW, OTHER_WINDOW, uuid4()])

    assert {window: dict(rows) for window, rows in counts.items()} == {
        WINDOW: {"outbox_event": 2, "outbox_user": 1},
        OTHER_WINDOW: {"outbox_event": 1},
    }


def test_a_row_stored_twice_counts_twice(store: AnyStore) -> None:
    write(store, row(1), token=FIRST)
    write(store, row(1), token=SECOND)

    assert dict(store.counts([WINDOW])[WINDOW]) == {"outbox_event": 2}


def test_hundreds_of_windows_are_counted_at_once(store: AnyStore) -> None:
    windows = [uuid4() for _ in range(1000)]
    write(store, *(row(number, window=window) for number, window in enumerate(windows)))

    counts = store.counts(windows)

    assert {window: dict(rows) for window, rows in counts.items()} == {w: {"outbox_event": 1} for w in windows}


def test_of_no_window_nothing_is_counted(store: AnyStore) -> None:
    write(store, row(1))

    assert dict(store.counts([])) == {}


def test_fewer_rows_than_announced_are_an_unknown_outcome(store: AnyStore) -> None:
    with pytest.raises(OutcomeUnknown):
        store.write(copy_text(row(1), row(2)), row_count=3, token=FIRST)


# --- Streaming -------------------------------------------------------------------------------------------------------


def test_a_type_is_streamed_by_time(store: AnyStore) -> None:
    moments = [datetime(2024, month, 1, tzinfo=UTC) for month in (3, 1, 2)]
    write(store, *(row(number, moment=moment) for number, moment in enumerate(moments)), row(9, event_type="refunded"))

    assert [event.outbox_id for event in store.stream("paid")] == [1, 2, 0]


def test_a_stream_begins_and_ends_where_it_is_asked_to(store: AnyStore) -> None:
    """`since` is in, `until` is out, to the microsecond."""
    write(store, *(row(number, moment=MOMENT + timedelta(microseconds=number)) for number in range(5)))

    streamed = store.stream("paid", since=MOMENT + timedelta(microseconds=1), until=MOMENT + timedelta(microseconds=4))

    assert [event.outbox_id for event in streamed] == [1, 2, 3]


def test_a_stream_gives_every_column(store: AnyStore) -> None:
    context = '{"a": "b\\n\t\x01 😀"}'
    began = store.now()
    given = row(7, context=context.encode(), version=3, own=LARGEST)
    nothing = b"\t" * len(ADDED_COLUMNS)
    stored = copy_text(given).replace(nothing, b"\tuser:7" + nothing[1:])
    store.write(stored, row_count=1, token=FIRST)

    (event,) = store.stream("paid")

    assert event == StoredEvent(
        event_type="paid",
        event_date_time=MOMENT,
        environment="test",
        event_context=context,
        metadata_version=3,
        outbox="outbox_event",
        outbox_id=7,
        window_id=WINDOW,
        written_at=event.written_at,
        added=dict(
            zip((column.name for column in added_columns(OWN_COLUMNS)), ("user:7", *given.added[1:]), strict=True)
        ),
    )
    assert began <= event.written_at <= store.now()


@pytest.mark.parametrize(
    "own", [LARGEST, SMALLEST, (*LARGEST[:6], "0.1", *LARGEST[7:])], ids=["largest", "smallest", "0.1"]
)
def test_a_project_s_columns_give_back_exactly_what_fits(
    store: AnyStore, subject: Subject, own: tuple[str, ...]
) -> None:
    given = row(1, own=own)
    write(store, given)

    assert subject.rows() == [given]
    (event,) = store.stream("paid")
    assert tuple(event.added.values()) == given.added


def test_the_targets_that_are_stored_are_told_from_others(store: AnyStore) -> None:
    """Of a type, in a period with both its ends."""
    targets = ["user:1", "user:2", "it's \\ %s", "é😀"]
    for number, target in enumerate([*targets, "user:5"]):
        given = copy_text(row(number + 1, moment=MOMENT + timedelta(microseconds=number)))
        nothing = b"\t" * len(ADDED_COLUMNS)
        before = b"\t" * [column.name for column in ADDED_COLUMNS].index("target")
        filled = before + b"\t" + escaped(target.encode()) + nothing[len(before) + 1 :]
        store.write(given.replace(nothing, filled), row_count=1, token=f"token {number}")
    period = {"since": MOMENT, "until": MOMENT + timedelta(microseconds=3)}

    assert store.stored_targets("paid", [*targets, "user:5", "user:6", ""], **period) == set(targets)
    assert store.stored_targets("paid", targets[1:], since=MOMENT, until=MOMENT) == set()
    assert store.stored_targets("opened", targets, **period) == set()
    assert store.stored_targets("paid", [], **period) == set()


def test_a_stream_of_many_pages_leaves_nothing_out(store: AnyStore) -> None:
    """Many events of one moment, and a row that is stored twice, wherever a page ends."""
    write(store, *(row(number) for number in range(1500)), token=FIRST)
    write(store, *(row(number) for number in range(1500, 3000)), *(row(number) for number in range(1500)), token=SECOND)

    assert [event.outbox_id for event in store.stream("paid")] == sorted([*range(3000), *range(1500)])


def test_a_stream_that_is_left_in_the_middle_leaves_the_store_usable(store: AnyStore, subject: Subject) -> None:
    write(store, row(1), row(2))

    assert next(store.stream("paid")).outbox_id == 1
    write(store, row(3), token=SECOND)

    assert subject.rows() == [row(1), row(2), row(3)]


def test_of_an_unknown_type_nothing_is_streamed(store: AnyStore) -> None:
    write(store, row(1))

    assert list(store.stream("'; DROP TABLE event_log; --")) == []
