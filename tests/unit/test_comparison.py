"""Comparing two logs: what only one of them has, whatever their clocks say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from towpath.eventlog.comparison import Comparison, compare
from towpath.eventlog.stores.memory import MemoryStore, StoredRow

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from towpath.eventlog.store import Digest

NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)
WINDOW = UUID(int=1)


class Log(MemoryStore):
    """A store that stands for the old log, too: whatever table it is asked for is its one."""

    def __init__(self, *contexts: tuple[timedelta, bytes]) -> None:
        super().__init__()
        self.rows = [
            StoredRow("outbox_event", number, WINDOW, "paid", NOON + after, "test", 1, context)
            for number, (after, context) in enumerate(contexts)
        ]

    def digests(self, _table: str | None, *, since: datetime, until: datetime, slack: timedelta) -> Iterator[Digest]:
        return super().digests(None, since=since, until=until, slack=slack)


def at(seconds: float, context: bytes) -> tuple[timedelta, bytes]:
    return timedelta(seconds=seconds), context


def compared(
    here: Log, there: Log, *, hours: float = 3, most_differences: int = 100, only_here: Collection[str] = ()
) -> Comparison:
    return compare(
        here,
        there,
        "old_log",
        since=NOON,
        until=NOON + timedelta(hours=hours),
        slack=timedelta(seconds=60),
        most_differences=most_differences,
        only_here=only_here,
    )


def test_events_that_no_other_log_has_are_no_difference_here_and_one_there() -> None:
    both, one = Log(at(0, b"both"), at(1, b"ours")), Log(at(0, b"both"))

    assert compared(both, one, only_here={"paid"}).is_equal
    assert not compared(both, one, only_here={"refunded"}).is_equal
    assert compared(one, both, only_here={"paid"}).missing["there"] == 1


def missing(comparison: Comparison) -> list[tuple[str, datetime, int]]:
    return [(one.side, one.at, one.rows) for one in comparison.differences]


def test_the_same_events_are_equal_whatever_their_clocks_say() -> None:
    here = Log(at(1, b"a"), at(1, b"b"), at(3601, b"a"))
    there = Log(at(1.5, b"b"), at(0.9, b"a"), at(3599, b"a"))

    found = compared(here, there)

    assert found.is_equal
    assert (found.missing, found.differences) == ({}, [])
    assert found.rows == {
        ("paid", NOON): {"here": 2, "there": 3},
        ("paid", NOON + timedelta(hours=1)): {"here": 1},
    }


def test_what_only_one_side_has_is_named_with_its_side() -> None:
    here = Log(at(1, b"a"), at(2, b"only here"), at(7200, b"b"))
    there = Log(at(1, b"a"), at(7201, b"only there"), at(7201, b"b"))

    found = compared(here, there)

    assert not found.is_equal
    assert found.missing == {"here": 1, "there": 1}
    assert missing(found) == [("here", NOON + timedelta(seconds=2), 1), ("there", NOON + timedelta(seconds=7201), 1)]


def test_of_a_context_that_one_side_has_more_often_the_surplus_is_missing() -> None:
    found = compared(Log(*(at(n, b"a") for n in range(5))), Log(*(at(n, b"a") for n in range(3))))

    assert found.missing == {"here": 2}
    assert missing(found) == [("here", NOON, 2)]


def test_events_of_two_hours_further_from_the_turn_than_the_slack_are_two() -> None:
    found = compared(Log(at(3539, b"a")), Log(at(3660, b"a")))

    assert found.missing == {"here": 1, "there": 1}


def test_a_partner_just_outside_of_the_period_counts_and_nothing_else_from_there() -> None:
    inside_and_before = compared(Log(at(1, b"a")), Log(at(-1, b"a"), at(-2, b"b")))
    after = compared(Log(at(5399, b"a")), Log(at(5401, b"a"), at(5402, b"b")), hours=1.5)

    assert inside_and_before.is_equal
    assert after.is_equal


def test_all_are_counted_and_the_first_shown() -> None:
    found = compared(Log(*(at(n, b"%d" % n) for n in range(50))), Log(at(0, b"x")), most_differences=10)

    assert found.missing == {"here": 50, "there": 1}
    assert len(found.differences) == 10


def test_nothing_is_not_equal_to_nothing() -> None:
    assert not compared(Log(), Log(at(-1, b"a"))).is_equal
