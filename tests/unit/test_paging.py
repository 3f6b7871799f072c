"""Pages of a search: periods from the newest end, a budget of time, and nothing lost or doubled between two pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.rows import MOMENT, OWN_COLUMNS, row
from towpath.eventlog.errors import LimitReached, StoreUnavailable
from towpath.eventlog.paging import histogram, newest, sample
from towpath.eventlog.query import Query, parse
from towpath.eventlog.search import Bar, Position
from towpath.eventlog.stores.memory import MemoryStore
from towpath.eventlog.values import EARLIEST, TOO_LATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towpath.eventlog.search import FoundEvent, FoundEvents
    from towpath.eventlog.stores.memory import StoredRow

ALL = Query()
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@dataclass
class Slow:
    """A store in memory that takes its time: for each hour of a statement's period, and at least."""

    rows: Sequence[StoredRow]
    seconds_of_hour: float = 0.0
    seconds_at_least: float = 0.0
    #: A longer period has too many rows for the user.
    longest: timedelta = timedelta.max
    now: float = 0.0
    asked: list[tuple[datetime, datetime]] = field(default_factory=list)
    error: Exception | None = None

    def search(self, query: Query, **how: Any) -> FoundEvents:
        self._take(how)
        return self._store().search(query, **how)

    def histogram(self, query: Query, **how: Any) -> Sequence[Bar]:
        self._take(how)
        return self._store().histogram(query, **how)

    def one(self, position: Position, *, seconds: float) -> Sequence[FoundEvent]:
        return self._store().one(position, seconds=seconds)

    def clock(self) -> float:
        return self.now

    @property
    def periods(self) -> list[timedelta]:
        return [until - since for since, until in self.asked]

    def _store(self) -> MemoryStore:
        store = MemoryStore(own_columns=OWN_COLUMNS)
        store.rows = list(self.rows)
        return store

    def _take(self, how: dict[str, Any]) -> None:
        since, until, seconds = how["since"], how["until"], how["seconds"]
        self.asked.append((since, until))
        if self.error:
            raise self.error
        if until - since > self.longest:
            raise LimitReached("too many rows")
        takes = max(self.seconds_at_least, (until - since) / HOUR * self.seconds_of_hour)
        self.now += min(takes, seconds)
        if takes > seconds:
            raise LimitReached("too long")


def ids(events: Sequence[FoundEvent]) -> list[int]:
    return [found.event.outbox_id for found in events]


def every_minute(count: int) -> list[StoredRow]:
    """Event 0 is the newest."""
    return [row(number, moment=MOMENT - number * MINUTE) for number in range(count)]


def test_a_full_page_asks_for_the_newest_quarter_of_an_hour_only() -> None:
    store = Slow(every_minute(100))

    page = newest(store, ALL, since=MOMENT - 30 * DAY, until=MOMENT + MINUTE, rows=10, seconds=1, clock=store.clock)

    assert ids(page.events) == list(range(10))
    assert (page.searched_back_to, page.next) == (MOMENT - 9 * MINUTE, page.events[-1].position)
    assert not page.is_complete
    assert store.periods == [15 * MINUTE]


def test_periods_grow_while_they_are_quick() -> None:
    store = Slow([row(1, moment=MOMENT - 20 * DAY)])

    page = newest(store, ALL, since=MOMENT - 30 * DAY, until=MOMENT, rows=10, seconds=1, clock=store.clock)

    assert ids(page.events) == [1]
    assert page.is_complete
    assert page.searched_back_to == MOMENT - 30 * DAY
    assert store.periods[:3] == [15 * MINUTE, 4 * HOUR, 64 * HOUR]
    assert [since for since, _ in store.asked[:-1]] == [until for _, until in store.asked[1:]], "periods are gapless"


def test_all_of_time_is_a_few_periods() -> None:
    store = Slow([row(1, moment=EARLIEST)])
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

    page = newest(store, ALL, since=first, until=last, rows=10, seconds=1, clock=store.clock)

    assert ids(page.events) == [1]
    assert page.is_complete
    assert len(store.asked) <= 9
    assert store.asked[0][1] == TOO_LATE


def test_when_the_time_is_over_the_page_says_how_far_back_it_is_complete() -> None:
    store = Slow(every_minute(3000), seconds_at_least=0.4)
    query = parse("outbox_id>=10 outbox_id<100")

    page = newest(store, query, since=MOMENT - 30 * DAY, until=MOMENT, rows=1000, seconds=1, clock=store.clock)

    assert 0 < len(page.events) < 90
    assert page.next == Position.at_start_of(page.searched_back_to)
    assert ids(page.events) == [
        number for number in range(10, 100) if MOMENT - number * MINUTE >= page.searched_back_to
    ]


def test_a_limit_halves_the_period() -> None:
    store = Slow(every_minute(30), longest=4 * MINUTE)

    page = newest(store, ALL, since=MOMENT - HOUR, until=MOMENT + MINUTE, rows=8, seconds=1, clock=store.clock)

    assert ids(page.events) == list(range(8))
    assert store.periods[:3] == [15 * MINUTE, 7.5 * MINUTE, 3.75 * MINUTE]
    assert max(store.periods[2:]) <= 4 * MINUTE


def test_a_period_that_takes_too_long_leaves_time_for_a_shorter_one() -> None:
    store = Slow(every_minute(30), seconds_of_hour=3)

    page = newest(store, ALL, since=MOMENT - HOUR, until=MOMENT + MINUTE, rows=100, seconds=1, clock=store.clock)

    assert page.events
    assert not page.is_complete
    assert store.now <= 1.1


def test_a_query_that_is_too_much_for_any_period_is_an_error() -> None:
    """It would otherwise show an empty page for ever."""
    by_rows = Slow(every_minute(3), longest=timedelta(0))
    by_time = Slow(every_minute(3), seconds_at_least=100)

    for store in (by_rows, by_time):
        with pytest.raises(LimitReached):
            newest(store, ALL, since=MOMENT - HOUR, until=MOMENT, rows=8, seconds=1, clock=store.clock)
        assert len(store.asked) <= 12
        assert store.now <= 1.2


def test_a_store_that_is_away_is_an_error() -> None:
    store = Slow([], error=StoreUnavailable("away"))

    with pytest.raises(StoreUnavailable, match="away"):
        newest(store, ALL, since=MOMENT - HOUR, until=MOMENT, rows=8, seconds=1, clock=store.clock)
    assert len(store.asked) == 1


def test_a_range_without_a_moment_is_complete_and_asks_nothing() -> None:
    store = Slow(every_minute(3))

    for since in (MOMENT, MOMENT + DAY):
        page = newest(store, ALL, since=since, until=MOMENT, rows=8, seconds=1, clock=store.clock)
        assert (list(page.events), page.is_complete) == ([], True)
    assert store.asked == []


@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from(("a", "b")), st.integers(0, 3)), max_size=40),
    st.integers(1, 7),
    st.sampled_from((0.0, 0.02, 0.3, 0.45)),
    st.sampled_from((timedelta.max, 11 * MINUTE)),
)
@settings(max_examples=200, deadline=None)
def test_pages_lose_and_double_nothing(
    events: list[tuple[int, str, int]], rows: int, seconds_at_least: float, longest: timedelta
) -> None:
    """Wherever a page ends: among events of one moment, between rows that are stored twice, or with the time."""
    stored = [row(number, outbox=outbox, moment=MOMENT - 7 * minutes * MINUTE) for minutes, outbox, number in events]
    store = Slow(stored, seconds_at_least=seconds_at_least, longest=longest)
    since, until = MOMENT - 200 * MINUTE, MOMENT - 3 * MINUTE
    found: list[FoundEvent] = []
    before = None
    for _ in range(200):
        page = newest(store, ALL, since=since, until=until, before=before, rows=rows, seconds=1, clock=store.clock)
        found += page.events
        if (before := page.next) is None:
            break

    everything = store._store().search(ALL, since=since, until=until, rows=1000, seconds=1)
    assert [one.position for one in found] == [one.position for one in everything]
    assert before is None


def test_a_sample_has_the_beginnings_of_contexts() -> None:
    store = Slow([row(1, context=b'{"a": "%s"}' % (b"x" * 5000)), row(2, context=b"{}")])

    page = sample(store, ALL, since=MOMENT, until=MOMENT + MINUTE, seconds=1, clock=store.clock)

    assert [(len(one.event.event_context), one.is_whole) for one in page.events] == [(2, True), (1000, False)]
    assert page.events[1].context_characters == 5009
    assert page.is_complete


def test_a_histogram_counts_each_event_once_however_its_periods_lie() -> None:
    store = Slow(every_minute(600), longest=HOUR)
    how: dict[str, Any] = {"since": MOMENT - 500 * MINUTE, "until": MOMENT, "step": HOUR}

    counted = histogram(store, ALL, **how, seconds=1, clock=store.clock)

    assert len(store.asked) > 3
    assert counted.bars == store._store().histogram(ALL, **how, seconds=1)
    assert sum(bar.events for bar in counted.bars) == 500
    assert counted.is_complete


def test_a_histogram_that_runs_out_of_time_has_the_newest_bars() -> None:
    store = Slow(every_minute(6000), seconds_at_least=0.3)
    how: dict[str, Any] = {"since": MOMENT - 6000 * MINUTE, "until": MOMENT, "step": MINUTE}

    counted = histogram(store, ALL, **how, seconds=1, clock=store.clock)

    whole = store._store().histogram(ALL, **how, seconds=1)
    assert not counted.is_complete
    assert counted.bars == [bar for bar in whole if bar.start >= counted.searched_back_to - MINUTE]


@pytest.mark.parametrize(
    "parts",
    [
        (MOMENT.replace(tzinfo=None), "outbox_event", 1),
        (datetime(1899, 12, 31, tzinfo=UTC), "outbox_event", 1),
        (datetime(2301, 1, 1, tzinfo=UTC), "outbox_event", 1),
        (MOMENT, "outbox\0event", 1),
        (MOMENT, "outbox\ud800", 1),
        (MOMENT, "outbox_event", -1),
        (MOMENT, "outbox_event", 2**63),
    ],
)
def test_a_position_that_no_event_has_is_refused(parts: tuple[datetime, str, int]) -> None:
    with pytest.raises(ValueError, match="can have"):
        Position(*parts)


def test_the_position_at_the_start_of_a_moment_parts_it_from_what_was_before() -> None:
    store = MemoryStore(own_columns=OWN_COLUMNS)
    store.rows = [row(0, outbox="a"), row(1, moment=MOMENT - timedelta(microseconds=1))]

    found = store.search(ALL, since=EARLIEST, until=TOO_LATE, before=Position.at_start_of(MOMENT), rows=10, seconds=1)

    assert ids(found) == [1]
