"""Ids of windows: neighbours in time are neighbours by their ids."""

from __future__ import annotations

import time
import uuid

from towpath.ledger.windows import new_window_id


def test_an_id_is_a_uuid_of_version_7_of_now() -> None:
    before = time.time_ns() // 1_000_000
    found = new_window_id()
    after = time.time_ns() // 1_000_000

    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert before <= found.int >> 80 <= after


def test_no_two_windows_of_a_millisecond_have_the_same_id() -> None:
    assert len({new_window_id() for _ in range(10_000)}) == 10_000
