"""Pauses after failures."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from towpath.flow.pause import pause_seconds


@given(failures=st.integers(1, 10_000))
def test_a_pause_doubles_with_each_failure_up_to_the_longest(failures: int) -> None:
    expected = min(0.5 * 2 ** min(failures - 1, 10), 30)

    pause = pause_seconds(failures, first=0.5, longest=30)

    assert 0.75 * expected <= pause <= 1.25 * expected


def test_those_that_failed_together_do_not_come_back_together() -> None:
    assert len({pause_seconds(3, first=0.5, longest=30) for _ in range(10)}) > 1
