"""Pausing dispatch: a person keeps events in their outboxes, for example while the event store is being repaired.

Nothing is lost: rows wait in their outbox. The ledger has who paused, and why, and an event records each pause. Both
actions can be repeated: pausing what is paused, or resuming what is not, changes nothing and says so.
"""

from __future__ import annotations

import unicodedata

import structlog
from django.db import transaction

from towpath.errors import NotPausable
from towpath.events import DispatchPaused, DispatchResumed
from towpath.ledger import pauses
from towpath.ledger.pauses import EVERY_OUTBOX
from towpath.outbox.models import all_outboxes
from towpath.outbox.publishing import publish

log = structlog.get_logger()

#: A reason is read in one line of `status`.
LONGEST_REASON = 300


def pause_dispatch(outbox: str, *, by: str, reason: str) -> bool:
    """Stop dispatching this outbox, or all of them, from the next look on. True if it was not paused before.

    Raises NotPausable, which says why, before anything is changed.
    """
    reason = " ".join(reason.split())
    _check(outbox)
    if not reason:
        raise NotPausable("Say why: others will find dispatch paused, and will ask.")
    # A terminal acts on control characters, and could be made to hide other lines of `status`.
    if len(reason) > LONGEST_REASON or any(unicodedata.category(one) == "Cc" for one in reason):
        raise NotPausable(f"The reason must have at most {LONGEST_REASON} characters, and no control characters.")
    with transaction.atomic():
        is_new = pauses.insert(outbox, by=by, reason=reason)
        if is_new:
            publish(DispatchPaused(outbox=outbox, reason=reason, paused_by=by))
    if is_new:
        log.warning("dispatch_paused", outbox=outbox or "all", reason=reason, by=by)
    return is_new


def resume_dispatch(outbox: str, *, by: str) -> list[str]:
    """Dispatch this outbox again, or all of them. Returns those that were paused.

    Raises NotPausable if the outbox is paused together with all others: it is not known which of them should stay
    paused.
    """
    with transaction.atomic():
        resumed = pauses.delete(outbox)
        for name in resumed:
            publish(DispatchResumed(outbox=name, resumed_by=by))
        if outbox and not resumed:
            _check(outbox)
            if is_all_paused():
                raise NotPausable(
                    f"{outbox} is paused together with all others: resume all, then pause those that should stay"
                    " paused."
                )
    for name in resumed:
        log.warning("dispatch_resumed", outbox=name or "all", by=by)
    return resumed


def is_all_paused() -> bool:
    """True if dispatch of all outboxes is paused: then none is dispatched, whatever its own pause."""
    return any(pause.outbox == EVERY_OUTBOX for pause in pauses.read_pauses())


def _check(outbox: str) -> None:
    if outbox and outbox not in all_outboxes():
        raise NotPausable(f"No outbox class has the name {outbox[:100]}: use one of {', '.join(all_outboxes())}.")
