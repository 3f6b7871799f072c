"""Waiting for a fact with a deadline, or watching that one holds, instead of sleeping."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_POLL_SECONDS = 0.02
#: After two seconds: a look asks a service, and fifty a second would cost as much as what is waited for.
_MOST_POLL_SECONDS = 0.1
_POLLS_PER_WAIT = 20


def eventually(predicate: Callable[[], T], *, seconds: float, what: str = "") -> T:
    """What `predicate` returns as soon as that is true; when the time is over, fails and shows its last value."""
    began = time.monotonic()
    while not (value := predicate()):
        waited = time.monotonic() - began
        if waited > seconds:
            raise AssertionError(f"not true within {seconds:g} s: {what or predicate} (last value: {value!r})")
        time.sleep(min(max(waited / _POLLS_PER_WAIT, _POLL_SECONDS), _MOST_POLL_SECONDS))
    return value


def always(predicate: Callable[[], object], *, seconds: float, what: str = "") -> None:
    """The twin of `eventually`, for what must hold all that time: fails as soon as `predicate` returns nothing true."""
    deadline = time.monotonic() + seconds
    while (value := predicate()) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if not value:
        raise AssertionError(f"not true for {seconds:g} s: {what or predicate} (last value: {value!r})")
