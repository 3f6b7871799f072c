"""Waiting notices what it waits for, and what does not hold."""

from __future__ import annotations

import itertools

import pytest

from tests.waiting import always, eventually


def test_eventually_returns_the_first_value_that_is_true() -> None:
    values = iter([0, "", "here", "later"])

    assert eventually(lambda: next(values), seconds=60) == "here"


def test_eventually_fails_with_the_last_value_when_the_time_is_over() -> None:
    with pytest.raises(AssertionError, match=r"not true within 0.05 s: it comes \(last value: 0\)"):
        eventually(lambda: 0, seconds=0.05, what="it comes")


def test_always_fails_at_the_first_value_that_is_not_true() -> None:
    values = iter([1, 1, 0, 1])

    with pytest.raises(AssertionError, match=r"not true for 60 s: it holds \(last value: 0\)"):
        always(lambda: next(values), seconds=60, what="it holds")
    assert next(values) == 1


def test_always_looks_again_and_again_until_the_time_is_over() -> None:
    looks = itertools.count(1)

    always(lambda: next(looks), seconds=0.1)

    assert next(looks) > 2
