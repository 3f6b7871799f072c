"""Waiting for a fact with a deadline, or watching that one holds, instead of sleeping."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_POLL_SECONDS = 0.02


def eventually(predicate: Callable[[], T], *, seconds: float, what: str = "") -> T:
    """What `predicate` returns as soon as that is true; when the time is over, fails and shows its last value."""
    deadline = time.monotonic() + seconds
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {seconds:g} s: {what or predicate} (last value: {value!r})")
        time.sleep(_POLL_SECONDS)
    return value


def always(predicate: Callable[[], object], *, seconds: float, what: str = "") -> None:
    """The twin of `eventually`, for what must hold all that time: fails as soon as `predicate` returns nothing true."""
    deadline = time.monotonic() + seconds
    while (value := predicate()) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if not value:
        raise AssertionError(f"not true for {seconds:g} s: {what or predicate} (last value: {value!r})")
