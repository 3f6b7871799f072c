"""What must hold at the end of every test: nothing lost, nothing doubled, nothing left over."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tests.integration.rows import undelivered
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.integration.event_log import EventLog


def assert_delivered(event_log: EventLog, *, committed: int) -> None:
    """Every committed row is in the event log once, and nothing is left on the way."""
    assert undelivered() == {}
    assert (event_log.count(), event_log.distinct()) == (committed, committed)


def assert_delivered_within(event_log: EventLog, *, committed: int, seconds: float) -> None:
    """The same, after waiting for the outboxes and the ledger to run empty."""
    with contextlib.suppress(AssertionError):  # the next line says what is left
        eventually(lambda: not undelivered(), seconds=seconds)
    assert_delivered(event_log, committed=committed)
