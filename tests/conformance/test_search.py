"""Every store searches, counts and cuts as the store in memory does, whose oracle is the language's own `matches`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.rows import LARGEST, MOMENT, OWN_COLUMNS, SMALLEST, copy_text, row
from tests.conformance.subjects import ClickHouseSubject, PostgreSQLSubject
from tests.queries import contexts, moments, queries, texts
from towpath.eventlog.columns import Kind
from towpath.eventlog.errors import LimitReached, StoreUnavailable
from towpath.eventlog.paging import newest
from towpath.eventlog.query import Query, parse
from towpath.eventlog.query.syntax import FullText
from towpath.eventlog.search import Bar, FoundEvent, Position
from towpath.eventlog.stores.memory import MemoryStore, StoredRow
from towpath.eventlog.values import EARLIEST, TOO_LATE
from towpath.eventlog.values import parse as value_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.conformance.subjects import AnyStore, Subject

ALL = Query()
ALWAYS: dict[str, Any] = {"since": EARLIEST, "until": TOO_LATE}
HOUR = timedelta(hours=1)
SECONDS = 20.0
#: What a text may be, and what nobody should put into SQL.
HOSTILE = (
    "'",
    '"',
    "\\",
    "\\'",
    "%",
    "%s",
    "%(since)s",
    "%%",
    "{since:String}",
    "`",
    "'; DROP TABLE event_log; --",
    "' OR '1'='1",
    "$1",
    "?",
    "\n\t\r\b\f\v",
    "/* */ -- #",
    "\u2028\x7f\x01",
    "é😀",
    "a" * 5000,
)


def write(store: AnyStore, rows: Sequence[StoredRow]) -> MemoryStore:
    """The rows into the store, and into one in memory that it is compared with."""
    memory = MemoryStore(own_columns=OWN_COLUMNS)
    if rows:
        store.write(copy_text(*rows), row_count=len(rows), token=str(uuid4()))
        memory.write(copy_text(*rows), row_count=len(rows), token="any")
    return memory


def by_position(found: Sequence[FoundEvent]) -> list[FoundEvent]:
    """Those of one position in one order, without the time of each store's own clock."""
    plain = [replace(one, event=replace(one.event, written_at=MOMENT)) for one in found]
    return sorted(plain, key=_order)


def _order(found: FoundEvent) -> tuple[object, ...]:
    event = found.event
    return found.position, event.event_type, event.event_context, found.context_characters, str(event.added["own_text"])


def agree(store: AnyStore, memory: MemoryStore, query: Query, **how: Any) -> None:
    """That both find the same, in the same order of positions."""
    found = store.search(query, **how, seconds=SECONDS)
    expected = memory.search(query, **how, seconds=SECONDS)
    assert [one.position for one in found] == [one.position for one in expected], (str(query), how)
    assert by_position(found) == by_position(expected), (str(query), how)


def random_rows() -> list[StoredRow]:
    """Of the same few times, outboxes and ids, so that there are ties and rows that are stored twice."""
    found: list[StoredRow] = []

    @given(
        context=contexts,
        moment=st.one_of(
            moments, st.sampled_from((MOMENT, MOMENT + timedelta(microseconds=1), EARLIEST, TOO_LATE - HOUR))
        ),
        outbox=st.sampled_from(("outbox_a", "outbox_b", "é", "")),
        number=st.integers(0, 2),
        event_type=texts,
        own=st.sampled_from((LARGEST, SMALLEST)),
    )
    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def more(
        *, context: str, moment: datetime, outbox: str, number: int, event_type: str, own: tuple[str, ...]
    ) -> None:
        one = row(number, outbox=outbox, moment=moment, context=context.encode(), event_type=event_type, own=own)
        values = tuple(map(value_of, Kind, own))
        found.append(replace(one, added=(event_type, *one.added[1 : -len(values)], *values)))

    more()
    return found


def test_every_store_finds_the_newest_events_that_the_oracle_finds(store: AnyStore) -> None:
    stored = random_rows()
    memory = write(store, stored)
    positions = [Position(one.event_date_time, *one.identity) for one in stored]
    times = st.one_of(st.sampled_from([one.event_date_time for one in stored]), moments)

    @given(
        query=st.one_of(st.just(ALL), queries),
        since=times,
        until=times,
        before=st.one_of(st.none(), st.sampled_from(positions), times.map(Position.at_start_of)),
        rows=st.integers(1, 20),
        most_characters=st.one_of(st.none(), st.integers(0, 12)),
    )
    @settings(max_examples=50, deadline=None, database=None)
    def finds(
        *,
        query: Query,
        since: datetime,
        until: datetime,
        before: Position | None,
        rows: int,
        most_characters: int | None,
    ) -> None:
        agree(
            store,
            memory,
            query,
            since=since,
            until=until,
            before=before,
            rows=rows,
            most_characters=most_characters,
        )

    finds()


def test_every_store_counts_the_bars_that_the_oracle_counts(store: AnyStore) -> None:
    memory = write(store, random_rows())
    steps = st.sampled_from(
        (timedelta(microseconds=1), timedelta(seconds=7), timedelta(minutes=5), HOUR, timedelta(days=1), 30 * HOUR)
    )

    @given(st.one_of(st.just(ALL), queries), moments, moments, steps, st.booleans())
    @settings(max_examples=30, deadline=None, database=None)
    def counts(query: Query, since: datetime, until: datetime, step: timedelta, is_always: bool) -> None:
        within: dict[str, Any] = ALWAYS if is_always else {"since": since, "until": until}
        found = store.histogram(query, **within, step=step, seconds=SECONDS)
        assert found == memory.histogram(query, **within, step=step, seconds=SECONDS), (str(query), within, step)

    counts()


def test_a_bar_is_aligned_to_1970_and_counts_what_is_in_the_range_only(store: AnyStore) -> None:
    first = datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)
    write(store, [row(1, moment=first), row(2, moment=first + HOUR), row(3, moment=first + HOUR, event_type="a")])

    bars = store.histogram(ALL, since=first, until=first + 2 * HOUR, step=HOUR, seconds=SECONDS)
    later = store.histogram(ALL, since=first + HOUR, until=first + 2 * HOUR, step=HOUR, seconds=SECONDS)

    start = datetime(1970, 1, 1, tzinfo=UTC)
    assert bars == [Bar(start - HOUR, "paid", 1), Bar(start, "a", 1), Bar(start, "paid", 1)]
    assert later == bars[1:]


@pytest.mark.parametrize("rows", [1, 2, 5, 7])
def test_pages_across_ties_lose_and_double_nothing(store: AnyStore, rows: int) -> None:
    """Rows that are stored twice, and many at one position, wherever a page ends."""
    many = [row(4, context=b"%d" % number) for number in range(40)]
    twice = [row(number) for number in (1, 1, 2, 3, 3, 3, 5)]
    earlier = [row(number, moment=MOMENT - timedelta(days=number)) for number in (1, 1, 40)]
    memory = write(store, [*many, *twice, *earlier])

    pages: list[FoundEvent] = []
    before = None
    while True:
        page = newest(store, ALL, **ALWAYS, before=before, rows=rows, seconds=60)
        pages += page.events
        if page.next is None:
            break
        before = page.next

    expected = memory.search(ALL, **ALWAYS, rows=1000, seconds=SECONDS)
    assert by_position(pages) == by_position(expected)
    assert [one.position for one in pages] == [one.position for one in expected]


def test_events_are_newest_first_over_all_of_time(store: AnyStore) -> None:
    edges = [
        EARLIEST,
        datetime(1969, 12, 31, 23, 30, tzinfo=UTC),
        datetime(1970, 1, 1, 0, 10, tzinfo=UTC),
        datetime(2106, 2, 7, 6, 28, tzinfo=UTC),
        datetime(2106, 2, 7, 7, tzinfo=UTC),
        TOO_LATE - HOUR,
    ]
    memory = write(store, [row(number, moment=edge) for number, edge in enumerate(edges)])

    agree(store, memory, ALL, **ALWAYS, rows=10)
    for since in edges:
        for until in edges:
            agree(store, memory, ALL, since=since, until=until, rows=10)


def test_a_context_is_cut_by_characters(store: AnyStore) -> None:
    write(store, [row(1, context="😀é\\n\x01".encode()), row(2, context=b"")])

    (empty, cut) = store.search(ALL, **ALWAYS, rows=10, most_characters=2, seconds=SECONDS)
    (_, whole) = store.search(ALL, **ALWAYS, rows=10, most_characters=5, seconds=SECONDS)
    (_, nothing) = store.search(ALL, **ALWAYS, rows=10, most_characters=0, seconds=SECONDS)

    assert (cut.event.event_context, cut.context_characters, cut.is_whole) == ("😀é", 5, False)
    assert (empty.event.event_context, empty.is_whole) == ("", True)
    assert (whole.event.event_context, whole.is_whole) == ("😀é\\n\x01", True)
    assert (nothing.event.event_context, nothing.context_characters) == ("", 5)


def test_one_event_is_found_whole_by_its_position(store: AnyStore) -> None:
    context = b'{"a": "%s"}' % (b"x" * 100_000)
    memory = write(
        store,
        [
            row(1),
            row(2, context=context, own=LARGEST),
            row(2, moment=MOMENT + HOUR),
            row(2, outbox="outbox_user"),
            row(3),
            row(3),
        ],
    )
    position = Position(MOMENT, "outbox_event", 2)

    (found,) = store.one(position, seconds=SECONDS)

    assert found.is_whole
    assert by_position([found]) == by_position(memory.one(position, seconds=SECONDS))
    assert len(found.event.event_context) == found.context_characters == len(context)
    assert len(store.one(Position(MOMENT, "outbox_event", 3), seconds=SECONDS)) == 2
    assert store.one(Position(MOMENT, "outbox_event", 4), seconds=SECONDS) == []
    assert store.one(Position(MOMENT, "outbox_event", 2**63 - 1), seconds=SECONDS) == []
    assert store.one(Position(EARLIEST, "", 0), seconds=SECONDS) == []


def test_several_events_at_one_position_are_in_the_same_order_each_time(store: AnyStore) -> None:
    memory = MemoryStore(own_columns=OWN_COLUMNS)
    windows = [UUID(int=number) for number in (3, 1, 4, 2)]
    for window in windows:
        for one in (store, memory):
            one.write(copy_text(row(1, window=window)), row_count=1, token=str(window))

    for one in (store, memory):
        found = one.one(Position(MOMENT, "outbox_event", 1), seconds=SECONDS)
        assert [each.event.window_id for each in found] == sorted(windows)


def test_no_text_of_a_search_is_taken_for_sql(store: AnyStore) -> None:
    rows = [row(number, outbox=text, event_type=text) for number, text in enumerate(HOSTILE, 1)]
    as_columns = [replace(one, added=(one.event_type, *one.added[1:])) for one in rows]
    memory = write(store, as_columns)

    for number, text in enumerate(HOSTILE, 1):
        position = Position(MOMENT, text, number)
        assert [one.position for one in store.one(position, seconds=SECONDS)] == [position]
        agree(store, memory, ALL, **ALWAYS, before=position, rows=100)
        quoted = '"' + text[:300].replace("\\", "\\\\").replace('"', '\\"') + '"'
        for query in (Query(FullText(text)), *(parse(f"{field}:{quoted}") for field in ("type", "actor", "context.a"))):
            agree(store, memory, query, **ALWAYS, rows=100)
            bars = store.histogram(query, **ALWAYS, step=HOUR, seconds=SECONDS)
            assert bars == memory.histogram(query, **ALWAYS, step=HOUR, seconds=SECONDS)
    agree(store, memory, ALL, **ALWAYS, rows=100)


def test_a_range_without_a_moment_has_no_event(store: AnyStore) -> None:
    write(store, [row(1)])

    for since, until in ((MOMENT, MOMENT), (MOMENT + HOUR, MOMENT)):
        assert not store.search(ALL, since=since, until=until, rows=10, seconds=SECONDS)
        assert store.histogram(ALL, since=since, until=until, step=HOUR, seconds=SECONDS) == []


def test_times_that_no_event_has_are_the_ends_of_time(store: AnyStore) -> None:
    write(store, [row(1)])
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

    assert len(store.search(ALL, since=first, until=last, rows=10, seconds=SECONDS)) == 1
    assert len(store.histogram(ALL, since=first, until=last, step=HOUR, seconds=SECONDS)) == 1
    assert not store.search(ALL, since=first, until=first, rows=10, seconds=SECONDS)
    assert not store.search(ALL, since=last, until=last, rows=10, seconds=SECONDS)


# --- Limits ----------------------------------------------------------------------------------------------------------

#: For each row, a look for a text in a long one.
EXPENSIVE = parse(" ".join(f'-"{letter}{"x" * 20}"' for letter in "bcdefghijklmn"))


@pytest.mark.only("clickhouse", "chdb", "postgresql", reason="the store in memory has no limits")
def test_a_statement_ends_with_its_time_and_the_store_stays_usable(store: AnyStore) -> None:
    context = b"a" * 20_000
    for batch in range(4):
        rows = [row(number, moment=MOMENT + batch * HOUR, context=context) for number in range(500)]
        store.write(copy_text(*rows), row_count=500, token=f"batch {batch}")

    for _ in range(2):
        with pytest.raises(LimitReached):
            store.search(EXPENSIVE, **ALWAYS, rows=10_000, seconds=0.01)
        with pytest.raises(LimitReached):
            store.histogram(EXPENSIVE, **ALWAYS, step=HOUR, seconds=0.01)
        assert len(store.search(EXPENSIVE, **ALWAYS, rows=3, most_characters=1, seconds=SECONDS)) == 3
    assert len(store.read_back(row(1).window_id)) == 500


@pytest.mark.only("postgresql", reason="the limit of a role, which a session can lift")
def test_the_limit_of_the_role_holds_for_a_search_and_not_for_a_write(subject: Subject, store: AnyStore) -> None:
    assert isinstance(subject, PostgreSQLSubject)
    write(store, [row(number, context=b"a" * 20_000) for number in range(1500)])
    subject.execute("ALTER DATABASE conformance SET statement_timeout = 150")
    try:
        with closing(subject.connect(subject.port)) as limited:
            with pytest.raises(LimitReached, match="statement timeout"):
                limited.search(EXPENSIVE, **ALWAYS, rows=10_000, seconds=SECONDS)
            limited.write(copy_text(*(row(number) for number in range(2000))), row_count=2000, token="more")
    finally:
        subject.execute("ALTER DATABASE conformance RESET statement_timeout")


@pytest.mark.only("clickhouse", "postgresql", reason="a store that is elsewhere can be away")
def test_a_store_that_is_away_has_reached_no_limit(subject: Subject) -> None:
    assert isinstance(subject, ClickHouseSubject | PostgreSQLSubject)
    with closing(subject.connect(1, timeout_seconds=1)) as away:
        for ask in (
            lambda: away.search(ALL, **ALWAYS, rows=1, seconds=SECONDS),
            lambda: away.histogram(ALL, **ALWAYS, step=HOUR, seconds=SECONDS),
            lambda: away.one(Position(MOMENT, "a", 1), seconds=SECONDS),
        ):
            with pytest.raises(StoreUnavailable) as raised:
                ask()
            assert not isinstance(raised.value, LimitReached)
