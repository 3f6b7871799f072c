"""Accepting: a person decides that what the event store holds of a window is right, although a proof says something
else, or there is no proof. The decision is an amendment, which the next seal covers, and an event."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from django.db import transaction

from towpath.errors import NoAlarm
from towpath.eventlog.proof import WindowDigest
from towpath.events import WindowAccepted
from towpath.ledger import proofs, suspect
from towpath.outbox.publishing import publish
from towpath.proof.deep import Pace, check_windows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from towpath.eventlog.store import ProvableStore

log = structlog.get_logger()

#: How many windows the store is asked about at a time.
_WINDOWS_PER_LOOK = 300


def accept(windows: Sequence[UUID], store: ProvableStore, *, reason: str, by: str) -> None:
    """Prove what the store holds of these windows now, in place of what was proven before.

    It is one transaction, with an event for each window. Raises NoAlarm, before anything is changed, if a window is as
    it was proven, is open, or is not verified yet; and StoreUnavailable.
    """
    differences = check_windows(windows, store, pace=Pace(0))
    columns = store.covered_columns()
    stored = [
        digest
        for first in range(0, len(windows), _WINDOWS_PER_LOOK)
        for digest in store.window_digests(windows[first : first + _WINDOWS_PER_LOOK], columns=columns)
    ]
    stored_windows = {one.window_id for one in stored}
    unproven = set(suspect.find_unproven(limit=None, windows=windows))
    _require_acceptable(windows, differences, stored=stored_windows, unproven=unproven)
    held = {(one.window_id, one.outbox, one.month) for one in stored}
    gone = [
        WindowDigest(proof.window_id, proof.outbox, proof.month, rows=0, digest="", digest_sum=0, id_sum=0)
        for proof in proofs.of_windows(windows)
        if proof.is_latest and proof.month and proof.key not in held
    ]
    with transaction.atomic():
        proofs.amend(
            [*stored, *gone],
            kind="accepted",
            columns=columns,
            reason=f"{reason} (accepted by {by}{_one_of(len(windows))})",
            empty=set(windows) - stored_windows - {one.window_id for one in gone},
        )
        for window in windows:
            suspect.note_contradiction(window, None)
            difference = "; ".join(map(str, differences[window])) or "no proof"
            publish(WindowAccepted(window=str(window), difference=difference, reason=reason, accepted_by=by))
    for window in windows:
        log.warning("window_accepted", window=str(window), reason=reason, by=by)


def _require_acceptable(
    windows: Sequence[UUID], differences: Mapping[UUID, Sequence[object]], *, stored: set[UUID], unproven: set[UUID]
) -> None:
    known = proofs.known_of(windows)
    for window in windows:
        if window in known.proven:
            if not differences[window]:
                raise NoAlarm(f"{window} has not changed since it was proven: there is nothing to accept.")
        elif window in known.in_ledger and window not in unproven:
            raise NoAlarm(f"{window} is open or not verified yet: wait a minute, or see `pipeline status`.")
        elif window not in known.in_ledger and window not in stored:
            raise NoAlarm(f"the event store has nothing of {window}, and the ledger does not know it.")


def _one_of(windows: int) -> str:
    """Return how many were accepted together, in the words of an amendment."""
    return f", one of {windows} windows" if windows > 1 else ""
