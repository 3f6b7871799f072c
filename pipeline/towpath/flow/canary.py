"""The canary: an event of the pipeline's own each CANARY_SECONDS, and how long it takes from its commit to the store.

It is published as any event, in a transaction with its row of the ledger: neither is there without the other. Then
the event store is asked until it has the event. If the power fails meanwhile, the next process at work keeps asking.
Only one is on its way at a time, so that a store that is away for long is not sent one a minute.
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

from django.db import transaction

from towpath.errors import described
from towpath.eventlog.errors import EventStoreError
from towpath.events import CanarySent
from towpath.ledger import canaries
from towpath.outbox.publishing import publish

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from towpath.eventlog.store import ReadableStore
    from towpath.ledger.canaries import OpenCanary

#: Between two questions to the store: so much longer than the truth is what is measured, at most.
_ASKED_EVERY_SECONDS = 0.1
#: Most are there within two seconds. One that is not is asked for less often.
_SOON_SECONDS = 5.0
_ASKED_LATER_EVERY_SECONDS = 1.0
#: Then the caller looks whether it is still its turn.
_LOOK_SECONDS = 30.0
#: The event's own time is the application's; the ledger's is PostgreSQL's.
_CLOCKS_APART = timedelta(hours=1)


def send_if_due(*, every_seconds: float) -> bool:
    """Publish a canary unless the last one is younger, or on its way. True if one was published."""
    with transaction.atomic():
        canaries.lock()
        if not canaries.is_due(every_seconds=every_seconds):
            return False
        token = uuid.uuid4()
        publish(CanarySent(canary=str(token)))
        canaries.insert(token, every_seconds=every_seconds)
    return True


def watch(store: ReadableStore, *, stopping: threading.Event) -> None:
    """Ask the event store for those that are on their way until it has them, for some time. Raises EventStoreError,
    after it was noted."""
    began = time.monotonic()
    while (found := canaries.read_open()) and not stopping.is_set():
        try:
            stored = _stored(store, found)
        except EventStoreError as error:
            canaries.note_error(described(error))
            raise
        if stored:
            canaries.note_queryable(stored)
        seconds = time.monotonic() - began
        if seconds > _LOOK_SECONDS:
            return
        if len(stored) < len(found):
            stopping.wait(_ASKED_EVERY_SECONDS if seconds < _SOON_SECONDS else _ASKED_LATER_EVERY_SECONDS)


def _stored(store: ReadableStore, found: Sequence[OpenCanary]) -> list[uuid.UUID]:
    targets = {CanarySent(canary=str(one.token)).event_target: one.token for one in found}
    times = [one.published_at for one in found]
    stored = store.stored_targets(
        CanarySent.event_type, list(targets), since=min(times) - _CLOCKS_APART, until=max(times) + _CLOCKS_APART
    )
    return [token for target, token in targets.items() if target in stored]
