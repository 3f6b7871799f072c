"""Accepting: a person decides that what the event store holds of a window stands, though a proof says something else,
or nothing does. The decision is an amendment, which the next seal covers, and an event."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from django.db import transaction

from towpath.errors import NoAlarm
from towpath.eventlog.proof import WindowDigest
from towpath.events import WindowAccepted
from towpath.ledger import proofs
from towpath.outbox.publishing import publish
from towpath.proof.deep import Pace, check_windows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from towpath.eventlog.store import ProvableStore

log = structlog.get_logger()


def accept(windows: Sequence[UUID], store: ProvableStore, *, reason: str, by: str) -> None:
    """Prove what the store holds of these windows now, in place of what was proven before.

    In one transaction with an event for each. Raises NoAlarm, before anything is changed, if one of them is as it was
    proven, or is open or not verified yet; StoreUnavailable.
    """
    differences = check_windows(windows, store, pace=Pace(0))
    known = proofs.known_of(windows)
    columns = store.covered_columns()
    stored = store.window_digests(windows, columns=columns)
    held = {(one.window_id, one.outbox, one.month) for one in stored}
    unproven = set(proofs.find_unproven(limit=None, windows=windows))
    for window in windows:
        if window in known.proven:
            if not differences[window]:
                raise NoAlarm(f"{window} is as it was proven: there is nothing to accept.")
        elif window in known.in_ledger and window not in unproven:
            raise NoAlarm(f"{window} is open or not verified yet: wait a minute, or see `pipeline status`.")
        elif not any(one.window_id == window for one in stored):
            raise NoAlarm(f"the event store holds nothing of {window}, and the ledger does not know it.")
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
            reason=f"{reason} (accepted by {by})",
        )
        for window in windows:
            proofs.note_contradiction(window, None)
            difference = "; ".join(map(str, differences[window])) or "no proof"
            publish(WindowAccepted(window=str(window), difference=difference, reason=reason, accepted_by=by))
    for window in windows:
        log.warning("window_accepted", window=str(window), reason=reason, by=by)
