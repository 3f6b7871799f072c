"""Unproven windows: those that no proof was ever taken of. A log from before there were proofs has them, and so has one
whose ledger was restored from a backup. A person accepts them, all of a period together.

What contradicts a proof or a receipt is never among them: it is accepted by its name, or not at all.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import structlog
from django.db import transaction

from towpath.events import UnprovenWindowsAccepted
from towpath.flow.verify import compare
from towpath.ledger import proofs, receipts, seals, suspect
from towpath.outbox.publishing import publish

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime
    from uuid import UUID

    from towpath.eventlog.store import KeepableStore

log = structlog.get_logger()

_T = TypeVar("_T")

#: Windows of one transaction, and of one question for the digests of their rows.
_WINDOWS_PER_COMMIT = 300
_WINDOWS_PER_LOOK = 50


@dataclass(frozen=True, slots=True)
class Unproven:
    """What was never proven of a period."""

    since: datetime | None
    until: datetime | None
    #: Windows with a verified receipt that the store agrees with.
    received: tuple[UUID, ...] = ()
    #: Windows of the store that are in no receipt.
    stray: tuple[UUID, ...] = ()
    #: Windows of which the store does not hold what their receipt says.
    contradicted: tuple[UUID, ...] = ()
    rows: int = 0

    @property
    def windows(self) -> int:
        """How many can be accepted together."""
        return len(self.received) + len(self.stray)


def find(store: KeepableStore, *, since: datetime | None, until: datetime | None) -> Unproven:
    """The windows that were dispatched from `since` to before `until` and have no proof, and the strays of which each
    event is of that time. Raises StoreUnavailable."""
    received, contradicted, rows = _compared(suspect.find_unproven(limit=None, since=since, until=until), store)
    stray: list[UUID] = []
    for window, count in _strays(store, since=since, until=until):
        stray.append(window)
        rows += count
    return Unproven(since, until, tuple(received), tuple(stray), tuple(contradicted), rows)


def accept(found: Unproven, store: KeepableStore, *, reason: str, by: str) -> int:
    """Prove what the store holds of them now; of how many. Those that were proven meanwhile, or are contradicted now,
    are left as they are.

    In some commits, each with its event: a run that was stopped is completed by the next one. Raises StoreUnavailable.
    """
    accepted = 0
    windows = [(window, False) for window in found.received] + [(window, True) for window in found.stray]
    for part in _parts(windows, _WINDOWS_PER_COMMIT):
        received, _, _ = _compared([window for window, is_stray in part if not is_stray], store)
        stray = [window for window, is_stray in part if is_stray]
        accepted += _accept(received, stray, found, store, reason=reason, by=by)
    log.warning("unproven_windows_accepted", windows=accepted, reason=reason, by=by)
    return accepted


def _accept(
    received: Sequence[UUID], stray: Sequence[UUID], found: Unproven, store: KeepableStore, *, reason: str, by: str
) -> int:
    columns = store.covered_columns()
    digests = store.window_digests([*received, *stray], columns=columns)
    with transaction.atomic():
        seals.lock()
        known = proofs.known_of([*received, *stray])
        strays = [window for window in stray if window not in known.proven and window not in known.in_ledger]
        windows = {*strays, *(window for window in received if window not in known.proven)}
        stored = [one for one in digests if one.window_id in windows]
        held = {one.window_id for one in stored}
        # A stray that is gone leaves nothing to prove.
        windows -= set(strays) - held
        if windows:
            proofs.amend(
                stored,
                kind="accepted",
                columns=columns,
                reason=f"{reason} (accepted by {by}, one of {found.windows} windows without a proof)",
                empty=windows - held,
            )
            publish(
                UnprovenWindowsAccepted(
                    windows=len(windows),
                    stray=len(windows.intersection(strays)),
                    rows=sum(one.rows for one in stored),
                    together=found.windows,
                    since=found.since.isoformat() if found.since else "",
                    until=found.until.isoformat() if found.until else "",
                    reason=reason,
                    accepted_by=by,
                )
            )
    return len(windows)


def _compared(windows: Sequence[UUID], store: KeepableStore) -> tuple[list[UUID], list[UUID], int]:
    """Those of the windows that the store holds what their receipts say of, the others, and rows of the former."""
    received, contradicted, rows = [], [], 0
    for part in _parts(windows, _WINDOWS_PER_COMMIT):
        for one in compare(receipts.of_windows(part), store):
            if one.is_contradicted:
                contradicted.append(one.receipt.window)
            else:
                received.append(one.receipt.window)
                rows += sum(one.stored.values())
    return received, contradicted, rows


def _strays(store: KeepableStore, *, since: datetime | None, until: datetime | None) -> Iterator[tuple[UUID, int]]:
    """Each with its rows."""
    seen: set[UUID] = set()
    for month in store.months():
        if (since and month < since.date().replace(day=1)) or (until and month > until.date()):
            continue
        for windows in _parts(store.windows_of(month), _WINDOWS_PER_LOOK):
            # The ledger is asked after the store: a window is in the ledger before the store has a row of it.
            known = proofs.known_of(windows)
            strays = [window for window in windows if window not in {*known.proven, *known.in_ledger, *seen}]
            seen.update(strays)
            if not strays:
                continue
            for window, rows in store.row_digests_of(strays, columns=store.covered_columns()).items():
                times = [row.event_date_time for row in rows]
                if (since is None or min(times) >= since) and (until is None or max(times) < until):
                    yield window, len(rows)


def _parts(windows: Iterable[_T], size: int) -> Iterator[list[_T]]:
    every = iter(windows)
    while part := list(itertools.islice(every, size)):
        yield part
