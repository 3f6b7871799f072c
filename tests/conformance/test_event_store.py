"""The store conformance suite: what the pipeline relies on, shown of every store.

Expectations are written by hand. A new store is one more subject (subjects.py) and passes all of it, or is left out of
a test by `only`, with the reason (docs/stores.md).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from backend.eventlog import schema
from backend.eventlog.columns import ADDED_COLUMNS
from backend.eventlog.errors import OutcomeUnknown, RowsRefused, StoreUnavailable
from backend.eventlog.store import EventStore, StoredEvent
from deploy.local.ports import Ports
from tests.conformance.answers import Answer, Endpoint, Silence
from tests.conformance.subjects import RemoteSubject, SchemaSubject, Subject
from tests.model.memory_store import StoredRow

WINDOW = UUID("11111111-2222-3333-4444-555555555555")
OTHER_WINDOW = UUID("99999999-2222-3333-4444-555555555555")
#: Tokens.
FIRST, SECOND = "first", "second"
MOMENT = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)

has_a_schema = pytest.mark.only("clickhouse", "chdb", "postgresql", reason="memory has no schema that could be wrong")
has_settings = pytest.mark.only(
    "clickhouse", "chdb", reason="PostgreSQL keeps its promises without settings of a table"
)
has_an_address = pytest.mark.only("clickhouse", "postgresql", reason="the others are in this process")
speaks_http = pytest.mark.only("clickhouse", reason="these are answers of ClickHouse's HTTP interface")


def row(
    number: int,
    *,
    outbox: str = "outbox_event",
    window: UUID = WINDOW,
    moment: datetime = MOMENT,
    context: bytes = b"{}",
    event_type: str = "paid",
    version: int = 1,
) -> StoredRow:
    return StoredRow(outbox, number, window, event_type, moment, "test", version, context)


def copy_text(*rows: StoredRow) -> bytes:
    """As PostgreSQL's COPY writes them."""
    return b"".join(
        line(
            row.outbox.encode(),
            b"%d" % row.outbox_id,
            str(row.window_id).encode(),
            row.event_type.encode(),
            row.event_date_time.strftime("%Y-%m-%d %H:%M:%S.%f+00").encode(),
            row.environment.encode(),
            b"%d" % row.metadata_version,
            row.event_context,
        )
        for row in rows
    )


def line(*values: bytes) -> bytes:
    return b"\t".join([*(escaped(value) for value in values), *(b"" for _ in ADDED_COLUMNS)]) + b"\n"


def escaped(value: bytes) -> bytes:
    value = value.replace(b"\\", b"\\\\")
    for plain, letter in ((b"\b", b"b"), (b"\f", b"f"), (b"\n", b"n"), (b"\r", b"r"), (b"\t", b"t"), (b"\v", b"v")):
        value = value.replace(plain, b"\\" + letter)
    return value


def write(store: EventStore, *rows: StoredRow, token: str = FIRST) -> None:
    store.write(copy_text(*rows), row_count=len(rows), token=token)


# --- The schema ------------------------------------------------------------------------------------------------------


def test_migrating_a_second_time_does_nothing(subject: Subject) -> None:
    schema.migrate(subject.store)

    assert list(schema.migrate(subject.store)) == []


def test_a_migrated_store_has_no_problems(store: EventStore) -> None:
    assert list(store.problems()) == []


@has_a_schema
def test_a_store_without_a_table_says_how_to_get_one(subject: Subject) -> None:
    (problem,) = subject.store.problems()

    assert "eventlog migrate" in problem


@has_a_schema
def test_a_missing_column_is_named(store: EventStore, subject: SchemaSubject) -> None:
    subject.execute("ALTER TABLE event_log DROP COLUMN event_context")

    (problem,) = store.problems()

    assert "column event_context is missing" in problem


@has_settings
@pytest.mark.parametrize(
    "setting", ["non_replicated_deduplication_window", "fsync_after_insert", "fsync_part_directory"]
)
def test_a_missing_setting_is_named_with_what_to_do(store: EventStore, subject: SchemaSubject, setting: str) -> None:
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
def test_a_context_is_stored_byte_for_byte(store: EventStore, subject: Subject, context: bytes) -> None:
    write(store, row(1, context=context), row(2, context=b"{}"))

    assert subject.rows() == [row(1, context=context), row(2)]


def test_every_column_is_stored_as_it_came(store: EventStore, subject: Subject) -> None:
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
def test_a_time_is_stored_to_the_microsecond(store: EventStore, subject: Subject, moment: datetime) -> None:
    write(store, row(1, moment=moment))

    assert subject.rows() == [row(1, moment=moment)]


def test_a_time_without_a_fraction_is_read(store: EventStore, subject: Subject) -> None:
    whole_second = copy_text(row(1)).replace(b".123456+00", b"+00")

    store.write(whole_second, row_count=1, token=FIRST)

    assert subject.rows() == [row(1, moment=MOMENT.replace(microsecond=0))]


def test_rows_of_ten_years_are_one_write(store: EventStore, subject: Subject) -> None:
    rows = [row(month + 1, moment=datetime(2010 + month // 12, 1 + month % 12, 3, tzinfo=UTC)) for month in range(120)]

    write(store, *rows)

    assert subject.rows() == rows


# --- Tokens ----------------------------------------------------------------------------------------------------------


def test_the_same_token_stores_once(store: EventStore, subject: Subject) -> None:
    write(store, row(1), row(2))
    write(store, row(1), row(2))

    assert subject.rows() == [row(1), row(2)]


def test_the_same_token_with_other_rows_is_dropped(store: EventStore, subject: Subject) -> None:
    write(store, row(1))
    write(store, row(2), row(3))

    assert subject.rows() == [row(1)]


def test_another_token_stores_again(store: EventStore, subject: Subject) -> None:
    write(store, row(1), token=FIRST)
    write(store, row(1), token=SECOND)

    assert subject.rows() == [row(1), row(1)]


def test_of_a_token_for_two_months_only_the_missing_month_is_stored(store: EventStore, subject: Subject) -> None:
    # Given a write that got no further than its first month
    january, february = row(1, moment=datetime(2024, 1, 31, tzinfo=UTC)), row(2)
    write(store, january)

    # When all of it is written again
    write(store, january, february)

    assert subject.rows() == [january, february]


def test_a_token_is_remembered_over_many_other_writes(store: EventStore, subject: Subject) -> None:
    write(store, row(1), token=FIRST)
    for number in range(2, 30):
        write(store, row(number), token=f"token {number}")

    write(store, row(1), token=FIRST)

    assert subject.rows() == [row(number) for number in range(1, 30)]


def test_a_refused_write_does_not_use_its_token_up(store: EventStore, subject: Subject) -> None:
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
def test_a_refused_row_keeps_the_whole_write_out(
    store: EventStore, subject: Subject, refused: bytes, place: int
) -> None:
    lines = [copy_text(row(1, moment=MOMENT - timedelta(days=60))), copy_text(row(3))]
    lines.insert(place, refused)

    with pytest.raises(RowsRefused):
        store.write(b"".join(lines), row_count=3, token=FIRST)

    assert subject.rows() == []


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
def test_a_refusal_quotes_no_payload(store: EventStore, refused: bytes) -> None:
    secrets = copy_text(row(1, context=b'{"password": "hunter2"}', event_type="hunter2"))

    with pytest.raises(RowsRefused) as caught:
        store.write(secrets + refused.replace(b"{}", b"hunter2") + secrets, row_count=3, token=FIRST)

    assert "hunter2" not in str(caught.value)
    assert str(caught.value)


# --- Reading back ----------------------------------------------------------------------------------------------------


def test_of_an_unknown_window_nothing_is_read_back(store: EventStore) -> None:
    write(store, row(1))

    assert store.read_back(uuid4()) == set()


def test_windows_are_read_back_each_by_itself(store: EventStore) -> None:
    write(store, row(1), row(2), row(1, outbox="outbox_user"), token=FIRST)
    write(store, row(3, window=OTHER_WINDOW), token=SECOND)

    assert store.read_back(WINDOW) == {("outbox_event", 1), ("outbox_event", 2), ("outbox_user", 1)}
    assert store.read_back(OTHER_WINDOW) == {("outbox_event", 3)}


def test_a_window_of_several_months_is_read_back_whole(store: EventStore) -> None:
    write(store, *(row(month, moment=datetime(2024, month, 1, tzinfo=UTC)) for month in range(1, 13)))

    assert store.read_back(WINDOW) == {("outbox_event", month) for month in range(1, 13)}


def test_what_is_written_is_read_back_at_once(store: EventStore) -> None:
    for number in range(1, 20):
        write(store, row(number), token=f"token {number}")

        assert ("outbox_event", number) in store.read_back(WINDOW)


def test_windows_are_counted_by_outbox(store: EventStore) -> None:
    write(store, row(1), row(2), row(1, outbox="outbox_user"), row(3, window=OTHER_WINDOW), token=FIRST)
    write(store, row(4, window=uuid4()), token=SECOND)

    counts = store.counts([WINDOW, OTHER_WINDOW, uuid4()])

    assert {window: dict(rows) for window, rows in counts.items()} == {
        WINDOW: {"outbox_event": 2, "outbox_user": 1},
        OTHER_WINDOW: {"outbox_event": 1},
    }


def test_a_row_stored_twice_counts_twice(store: EventStore) -> None:
    write(store, row(1), token=FIRST)
    write(store, row(1), token=SECOND)

    assert dict(store.counts([WINDOW])[WINDOW]) == {"outbox_event": 2}


def test_hundreds_of_windows_are_counted_at_once(store: EventStore) -> None:
    windows = [uuid4() for _ in range(1000)]
    write(store, *(row(number, window=window) for number, window in enumerate(windows)))

    counts = store.counts(windows)

    assert {window: dict(rows) for window, rows in counts.items()} == {w: {"outbox_event": 1} for w in windows}


def test_of_no_window_nothing_is_counted(store: EventStore) -> None:
    write(store, row(1))

    assert dict(store.counts([])) == {}


def test_fewer_rows_than_announced_are_an_unknown_outcome(store: EventStore) -> None:
    with pytest.raises(OutcomeUnknown):
        store.write(copy_text(row(1), row(2)), row_count=3, token=FIRST)


# --- Streaming -------------------------------------------------------------------------------------------------------


def test_a_type_is_streamed_by_time(store: EventStore) -> None:
    moments = [datetime(2024, month, 1, tzinfo=UTC) for month in (3, 1, 2)]
    write(store, *(row(number, moment=moment) for number, moment in enumerate(moments)), row(9, event_type="refunded"))

    assert [event.outbox_id for event in store.stream("paid")] == [1, 2, 0]


def test_a_stream_begins_and_ends_where_it_is_asked_to(store: EventStore) -> None:
    """`since` is in, `until` is out, to the microsecond."""
    write(store, *(row(number, moment=MOMENT + timedelta(microseconds=number)) for number in range(5)))

    streamed = store.stream("paid", since=MOMENT + timedelta(microseconds=1), until=MOMENT + timedelta(microseconds=4))

    assert [event.outbox_id for event in streamed] == [1, 2, 3]


def test_a_stream_gives_every_column(store: EventStore) -> None:
    context = '{"a": "b\\n\t\x01 😀"}'
    began = store.now()
    (actor, *others) = ("user:7", *("" for _ in ADDED_COLUMNS[1:]))
    stored = copy_text(row(7, context=context.encode(), version=3)).replace(b"\t\t\t\n", b"\tuser:7\t\t\n")
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
        added=dict(zip((column.name for column in ADDED_COLUMNS), (actor, *others), strict=True)),
    )
    assert began <= event.written_at <= store.now()


def test_a_stream_of_many_pages_leaves_nothing_out(store: EventStore) -> None:
    """Many events of one moment, and a row that is stored twice, wherever a page ends."""
    write(store, *(row(number) for number in range(1500)), token=FIRST)
    write(store, *(row(number) for number in range(1500, 3000)), *(row(number) for number in range(1500)), token=SECOND)

    assert [event.outbox_id for event in store.stream("paid")] == sorted([*range(3000), *range(1500)])


def test_a_stream_that_is_left_in_the_middle_leaves_the_store_usable(store: EventStore, subject: Subject) -> None:
    write(store, row(1), row(2))

    assert next(store.stream("paid")).outbox_id == 1
    write(store, row(3), token=SECOND)

    assert subject.rows() == [row(1), row(2), row(3)]


def test_of_an_unknown_type_nothing_is_streamed(store: EventStore) -> None:
    write(store, row(1))

    assert list(store.stream("'; DROP TABLE event_log; --")) == []


# --- Clock, threads, closing -----------------------------------------------------------------------------------------


def test_the_stores_clock_is_near_ours(store: EventStore) -> None:
    assert abs(store.now() - datetime.now(UTC)) < timedelta(seconds=10)


def test_threads_share_a_store(store: EventStore, subject: Subject) -> None:
    def write_ten(thread: int) -> None:
        for number in range(thread * 10, thread * 10 + 10):
            write(store, row(number), token=f"token {number}")
            assert ("outbox_event", number) in store.read_back(WINDOW)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write_ten, range(8)))

    assert subject.rows() == [row(number) for number in range(80)]


def test_threads_with_one_token_store_once(store: EventStore, subject: Subject) -> None:
    rows = [row(number) for number in range(100)]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: write(store, *rows), range(8)))

    assert subject.rows() == rows


def test_a_store_is_closed_twice_without_complaint(store: EventStore) -> None:
    store.close()
    store.close()


def test_a_closed_store_opens_again_when_it_is_used(store: EventStore, subject: Subject) -> None:
    store.close()

    write(store, row(1))

    assert subject.rows() == [row(1)]


# --- Outages ---------------------------------------------------------------------------------------------------------


@has_an_address
def test_a_store_that_is_down_is_unavailable_whatever_is_asked(
    subject: RemoteSubject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ports = Ports(tmp_path_factory.mktemp("ports") / "ports.json")
    store = subject.connect(ports.choose("clickhouse"), timeout_seconds=2)

    with pytest.raises(StoreUnavailable):
        write(store, row(1))
    with pytest.raises(StoreUnavailable):
        store.read_back(WINDOW)
    with pytest.raises(StoreUnavailable):
        store.counts([WINDOW])
    with pytest.raises(StoreUnavailable):
        next(store.stream("paid"))
    with pytest.raises(StoreUnavailable):
        store.now()
    with pytest.raises(StoreUnavailable):
        store.problems()
    ports.release()


@speaks_http
@pytest.mark.parametrize(("silence", "stored"), [("close", []), ("carry out and close", [row(1)]), ("hang", [])])
def test_a_lost_answer_leaves_the_outcome_unknown(
    store: EventStore, subject: RemoteSubject, silence: Silence, stored: list[StoredRow]
) -> None:
    assert list(store.problems()) == []
    with Endpoint(subject.port, inserts=silence) as endpoint:
        behind_endpoint = subject.connect(endpoint.port, timeout_seconds=1)

        with pytest.raises(OutcomeUnknown):
            write(behind_endpoint, row(1))

        behind_endpoint.close()
    assert subject.rows() == stored


@speaks_http
@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (241, StoreUnavailable),  # memory limit exceeded
        (242, StoreUnavailable),  # table is read only
        (243, StoreUnavailable),  # not enough space
        (252, StoreUnavailable),  # too many parts
        (164, StoreUnavailable),  # user is read only
        (202, StoreUnavailable),  # too many simultaneous queries
        (159, OutcomeUnknown),  # timeout exceeded
        (209, OutcomeUnknown),  # socket timeout
        (210, OutcomeUnknown),  # network error
        (319, OutcomeUnknown),  # unknown status of insert
        (27, RowsRefused),  # cannot parse input
    ],
)
@pytest.mark.parametrize("status", [500, 200])
def test_an_error_code_is_an_error_also_under_a_good_status(
    store: EventStore, subject: RemoteSubject, code: int, outcome: type[Exception], status: int
) -> None:
    body = f"Code: {code}. DB::Exception: something is wrong. (SOMETHING)\n".encode()
    answer = Answer(status, body, {"X-ClickHouse-Exception-Code": str(code)})
    assert list(store.problems()) == []
    with Endpoint(subject.port, inserts=answer) as endpoint:
        behind_endpoint = subject.connect(endpoint.port)

        with pytest.raises(outcome):
            write(behind_endpoint, row(1))

        behind_endpoint.close()


@speaks_http
@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_answer_of_something_in_between_is_no_success(
    store: EventStore, subject: RemoteSubject, status: int
) -> None:
    assert list(store.problems()) == []
    with Endpoint(subject.port, inserts=Answer(status, b"no upstream")) as endpoint:
        behind_endpoint = subject.connect(endpoint.port)

        with pytest.raises((StoreUnavailable, OutcomeUnknown)):
            write(behind_endpoint, row(1))

        behind_endpoint.close()


@speaks_http
@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>Please log in</html>"),
        Answer(200, b"", {"X-ClickHouse-Summary": "{}"}),
        Answer(200, b"", {"X-ClickHouse-Summary": '{"written_rows": "0"}'}),
    ],
    ids=["no summary", "empty summary", "no rows"],
)
def test_a_good_answer_that_does_not_say_what_was_written_leaves_the_outcome_unknown(
    store: EventStore, subject: RemoteSubject, answer: Answer
) -> None:
    assert list(store.problems()) == []
    with Endpoint(subject.port, inserts=answer) as endpoint:
        behind_endpoint = subject.connect(endpoint.port)

        with pytest.raises(OutcomeUnknown):
            write(behind_endpoint, row(1))

        behind_endpoint.close()
