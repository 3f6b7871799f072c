"""Waiting for a fact with a deadline, instead of sleeping."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_SECONDS = 0.02


def wait_until(fact: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Return as soon as the fact is true; fail when the time is over."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"not true after {seconds} s: {fact}"
        time.sleep(POLL_SECONDS)


def is_alive(pid: int) -> bool:
    """True if a process runs; a zombie that nobody collects does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
