"""Retention: drop whole months of the event log, once everything in them is proven and sealed. The chain records it.

Right before it goes, a month is examined again, because a person was asked in between. Then come an amendment and an
event, in one transaction, then the month's rows, then its proofs. If the power fails in
between, the next run completes it, and checks name rows of the month that are still there. Seals stay for ever.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from django.db import transaction

from towpath.errors import NotDroppable
from towpath.events import LogMonthDropped
from towpath.ledger import dropped, proofs, seals, suspect
from towpath.ledger.dropped import dropped_months
from towpath.outbox.publishing import publish
from towpath.proof.deep import Pace, check_windows, look_again

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from towpath.eventlog.store import KeepableStore
    from towpath.proof.deep import Difference

log = structlog.get_logger()

#: Windows of one question to the ledger, and positions of one DELETE.
_WINDOWS_PER_LOOK = 1000
_POSITIONS_PER_DELETE = 50_000


@dataclass(frozen=True, slots=True)
class Month:
    """A month that is old enough to be dropped."""

    month: date
    windows: int
    rows: int
    last_position: int
    #: Windows that the store has rows of in this month.
    stored_windows: int
    #: True if an earlier run was interrupted: it is in the chain, and its rows are still stored.
    is_begun: bool = False
    #: Why it must not be dropped yet, and what to do; empty if it may.
    refusal: str = ""

    @property
    def name(self) -> str:
        return f"{self.month:%Y-%m}"


def first_kept(*, today: date, months: int) -> date:
    """Return the first day of the month this many months ago: everything before it is old enough to be dropped."""
    number = today.year * 12 + today.month - 1 - months
    return today.replace(year=number // 12, month=number % 12 + 1, day=1)


def find_months(store: KeepableStore, *, before: date) -> Iterator[Month]:
    """Return the months before a day that have rows in the store, earliest first, and whether they may be dropped.
    Raises StoreUnavailable."""
    for month in store.months():
        if month < before:
            yield _examine(month, store)


def drop(month: Month, store: KeepableStore, *, reason: str, by: str) -> None:
    """Drop a month that may go. Raises NotDroppable if it must not go now, and StoreUnavailable: then the next run
    completes it."""
    _require_unchanged(month, store)
    if not month.is_begun:
        with transaction.atomic():
            seals.lock()
            if dropped.is_proven_since(month.month, month.last_position):
                raise NotDroppable(f"{month.name} was written to in the meantime: run this again")
            columns = store.covered_columns()
            dropped.note(month.month, rows=month.rows, columns=columns, reason=f"{reason} (dropped by {by})")
            publish(
                LogMonthDropped(month=month.name, windows=month.windows, rows=month.rows, reason=reason, dropped_by=by)
            )
    if not store.drop_month(month.month, windows=month.stored_windows):
        # It is in the chain already. That is so after a power failure, too, and the next run completes it.
        raise NotDroppable(
            f"{month.name} was written to at the last moment, and is still stored: run this again in a few minutes"
        )
    # A check that read a window between the commit and this has found rows of a dropped month.
    look_again(store)
    log.warning("log_month_dropped", month=month.name, windows=month.windows, rows=month.rows, by=by)


def purge_proofs() -> int:
    """Delete the proofs of dropped months whose receipts are gone, in small steps. Returns their number."""
    if not dropped_months():
        return 0
    deleted = after = 0
    # From one that there is to the next: somebody may have put a proof at any position.
    while page := proofs.read_page(after=after, limit=1):
        first, after = page[0].position, page[0].position - 1 + _POSITIONS_PER_DELETE
        deleted += dropped.purge_proofs(after=first - 1, until=after)
    return deleted


def _require_unchanged(month: Month, store: KeepableStore) -> None:
    """Raise NotDroppable if the month must not go, or is not what it was: the person was asked about that. What was
    written meanwhile is not proven, and would be gone for good."""
    now = _examine(month.month, store)
    if now.refusal:
        raise NotDroppable(now.refusal)
    if now != month:
        raise NotDroppable(f"{month.name} was written to in the meantime: run this again")


def _examine(month: date, store: KeepableStore) -> Month:
    positions: list[int] = []
    unproven: list[str] = []
    windows = store.windows_of(month)
    while look := list(itertools.islice(windows, _WINDOWS_PER_LOOK)):
        # The ledger is asked after the store: what is not proven now was not when the store was asked.
        proven = dropped.positions_in(month, look)
        positions += proven.values()
        unproven += [str(window) for window in look if window not in proven]
    begun_at = dropped_months().get(month, 0)
    if begun_at and not unproven and max(positions, default=0) < begun_at:
        return Month(month, windows=0, rows=0, last_position=begun_at, stored_windows=len(positions), is_begun=True)
    held = dropped.read_month(month)
    newest = seals.newest()
    sealed_until = newest.last_position if newest else 0
    unsealed = sum(position > sealed_until for position in positions)
    refusal = ""
    if unproven:
        refusal = (
            f"{month:%Y-%m} has {len(unproven)} window(s) without a proof, such as {min(unproven)}: what was just"
            " delivered is verified within a minute; `pipeline verify --deep` names the others"
        )
    elif unsealed or held.last_position > sealed_until:
        refusal = f"{month:%Y-%m} has {max(1, unsealed)} window(s) that no seal covers: run `pipeline seals make`"
    elif held.contradicted and (changed := _changed(month, store)):
        refusal = (
            f"{month:%Y-%m} has {changed} window(s) that were changed in the event store: see `pipeline verify --deep`"
        )
    return Month(
        month,
        windows=held.windows,
        rows=held.rows,
        last_position=held.last_position,
        stored_windows=len(positions) + len(unproven),
        refusal=refusal,
    )


def _changed(month: date, store: KeepableStore) -> int:
    """How many windows of this month were changed, in any month. Rows that an interrupted run has left of a dropped
    month do not count, but those that came to it later do."""
    windows = list(dropped.positions_in(month, suspect.find_contradicted(limit=None)))
    found = check_windows(windows, store, pace=Pace(0))
    gone = dropped_months()

    def is_left_over(one: Difference) -> bool:
        return one.month is not None and 0 < one.position < gone.get(one.month, 0)

    return sum(not all(map(is_left_over, differences)) for differences in found.values())
