"""What stands still on its way, found in one look; the same message moves the marks that all looks begin at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from towpath import driver
from towpath.ledger import marks
from towpath.ledger.batches import BATCHES
from towpath.ledger.open_windows import OPEN_WINDOWS

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Stuck:
    """What there is to recover: batches that nobody has sealed for too long; windows whose lease has run out, among
    them some whose rows are at fault."""

    has_batches: bool
    has_windows: bool
    has_isolated_windows: bool


def move_marks_and_look(outboxes: Sequence[str], *, unsealed_seconds: float) -> Stuck:
    """Move the marks of windows and batches, and say what is stuck of these outboxes.

    One message, because it is sent each second. Windows of other outboxes count as well: some of their batches may
    have to be taken out of them (`names.free_known`).
    """
    with driver.cursor() as cursor:
        cursor.execute(
            f"""{marks.MOVE_MARKS}
            SELECT EXISTS (
                SELECT FROM {BATCHES} AS b WHERE window_id IS NULL AND outbox = ANY(%(outboxes)s)
                AND dispatched_at < statement_timestamp() - make_interval(secs => %(seconds)s)
            ), coalesce(bool_or(NOT is_isolated), false), coalesce(bool_or(is_isolated), false)
            FROM {OPEN_WINDOWS} AS w WHERE lease_until < statement_timestamp()
            """,
            {"outboxes": list(outboxes), "seconds": unsealed_seconds, "passed": marks.PASSED},
        )
        return Stuck(*cursor.fetchone())
