"""The accumulating window, with the clock in the test's hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.flow.accumulate import Accumulator, ClosedWindow, WindowLimits

LIMITS = WindowLimits(rows=1000, max_rows=1000, payload_bytes=10_000, linger_seconds=1.0)


@dataclass(frozen=True)
class Arrival:
    """A batch and how long after the one before it comes."""

    rows: int
    payload_bytes: int
    after_seconds: float


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        rows=st.integers(1, 700),
        payload_bytes=st.integers(0, 15_000),
        after_seconds=st.sampled_from([0.0, 0.1, 0.5, 0.999, 1.0, 7.0]),
    ),
    max_size=60,
)


def accumulator() -> Accumulator[str]:
    return Accumulator(LIMITS)


def test_nothing_is_due_while_nothing_waits() -> None:
    assert accumulator().seconds_until_due(now=5.0) is None
    with pytest.raises(IndexError):
        accumulator().take(now=5.0)


def test_a_window_is_due_at_once_when_its_rows_are_full() -> None:
    waiting = accumulator()
    waiting.add("a", rows=500, payload_bytes=0, now=0.0)
    assert waiting.seconds_until_due(now=0.0) == 1.0

    waiting.add("b", rows=500, payload_bytes=0, now=0.0)

    assert waiting.seconds_until_due(now=0.0) == 0.0
    assert waiting.take(now=0.5) == ClosedWindow(["a", "b"], "rows", 0.5)


def test_a_window_is_due_at_once_when_its_bytes_are_full() -> None:
    waiting = accumulator()
    waiting.add("a", rows=1, payload_bytes=4000, now=0.0)
    assert waiting.seconds_until_due(now=0.0) == 1.0

    waiting.add("b", rows=1, payload_bytes=6000, now=0.0)

    assert waiting.seconds_until_due(now=0.0) == 0.0
    assert waiting.take(now=0.0) == ClosedWindow(["a", "b"], "bytes", 0.0)


def test_the_linger_starts_at_the_first_batch_after_a_quiet_spell() -> None:
    # Given an accumulator whose last window was taken long ago
    waiting = accumulator()
    waiting.add("long gone", rows=1, payload_bytes=0, now=0.0)
    waiting.take(now=1.0)

    # When a batch comes a hundred seconds later, and another one half a second after it
    waiting.add("first", rows=1, payload_bytes=0, now=100.0)
    assert waiting.seconds_until_due(now=100.0) == 1.0
    waiting.add("second", rows=1, payload_bytes=0, now=100.5)

    # Then the window closes one second after the first of them
    assert waiting.seconds_until_due(now=100.5) == 0.5
    assert waiting.seconds_until_due(now=101.0) == 0.0
    assert waiting.take(now=101.0) == ClosedWindow(["first", "second"], "linger", 1.0)


def test_a_batch_that_was_left_behind_keeps_its_time() -> None:
    # Given two batches that do not fit into one window
    waiting = accumulator()
    waiting.add("a", rows=900, payload_bytes=0, now=0.0)
    waiting.add("b", rows=900, payload_bytes=0, now=0.25)

    # When the first is taken
    assert waiting.take(now=0.5).batches == ["a"]

    # Then the second is due one second after it came, and not after the other was taken
    assert waiting.seconds_until_due(now=0.75) == 0.5


def test_a_window_nobody_was_free_to_take_grows_up_to_its_most_rows() -> None:
    waiting: Accumulator[str] = Accumulator(replace(LIMITS, max_rows=2000))
    for name in "abcde":
        waiting.add(name, rows=500, payload_bytes=0, now=0.0)

    assert [waiting.take(now=0.0).batches for _ in range(2)] == [["a", "b", "c", "d"], ["e"]]


def test_a_batch_larger_than_a_window_is_a_window_alone() -> None:
    waiting = accumulator()
    waiting.add("small", rows=1, payload_bytes=1, now=0.0)
    waiting.add("many rows", rows=5000, payload_bytes=1, now=0.0)
    waiting.add("many bytes", rows=1, payload_bytes=99_999, now=0.0)

    assert [waiting.take(now=0.0).batches for _ in range(3)] == [["small"], ["many rows"], ["many bytes"]]
    assert len(waiting) == 0


@given(ARRIVALS)
def test_every_batch_is_taken_once_in_its_order_within_the_limits_and_in_time(arrivals: list[Arrival]) -> None:
    # Given a caller that takes each window the moment it is due
    waiting: Accumulator[int] = Accumulator(LIMITS)
    came_at: list[float] = []
    windows: list[list[int]] = []
    now = 0.0

    def take_what_is_due(until: float) -> None:
        while (due := waiting.seconds_until_due(now)) is not None and now + due <= until:
            window = waiting.take(now).batches
            # Then nothing in it has waited longer than the linger
            assert max(now, now + due) - came_at[window[0]] <= LIMITS.linger_seconds + 1e-6
            windows.append(window)

    # When batches come
    for number, arrival in enumerate(arrivals):
        take_what_is_due(now + arrival.after_seconds)
        now += arrival.after_seconds
        came_at.append(now)
        waiting.add(number, rows=arrival.rows, payload_bytes=arrival.payload_bytes, now=now)
    take_what_is_due(now + LIMITS.linger_seconds)

    # Then each is in one window, in the order in which it came
    assert [number for window in windows for number in window] == list(range(len(arrivals)))
    assert len(waiting) == 0
    for window in windows:
        if len(window) > 1:
            assert sum(arrivals[number].rows for number in window) <= LIMITS.rows
            assert sum(arrivals[number].payload_bytes for number in window) <= LIMITS.payload_bytes


@given(ARRIVALS)
def test_a_window_stops_only_before_a_batch_that_does_not_fit(arrivals: list[Arrival]) -> None:
    waiting: Accumulator[int] = Accumulator(LIMITS)
    for number, arrival in enumerate(arrivals):
        waiting.add(number, rows=arrival.rows, payload_bytes=arrival.payload_bytes, now=0.0)

    while waiting:
        window = waiting.take(now=0.0).batches
        following = window[-1] + 1
        if following < len(arrivals):
            with_one_more = arrivals[window[0] : following + 1]
            assert (
                sum(arrival.rows for arrival in with_one_more) > LIMITS.rows
                or sum(arrival.payload_bytes for arrival in with_one_more) > LIMITS.payload_bytes
            )
