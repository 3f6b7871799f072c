"""What a person does to the pipeline, in the console or with a command. Done or not, it is recorded as an event.

Both go through `carry_out`, so both record the same. If the power fails before the event of a recovery is committed,
that recovery is not recorded; the recover shift would have delivered the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import structlog
from django.db import DatabaseError, InterfaceError, transaction
from dramatiq.errors import BrokerError

from towpath import driver
from towpath.errors import NotDone, NotYours, PipelineError, described
from towpath.eventlog.errors import EventStoreError
from towpath.events import DeadLettersReplayed, PipelineActionFailed, RecoveryRun
from towpath.flow import deadletters, stranded
from towpath.flow.delivery import Delivery
from towpath.flow.recover import recover
from towpath.ledger.open_windows import read_last_error
from towpath.ledger.tables import may_seal
from towpath.outbox.publishing import publish
from towpath.telemetry.secrets import without_secrets

if TYPE_CHECKING:
    from towpath.eventlog.store import EventStore
    from towpath.flow.accumulate import WindowLimits
    from towpath.flow.deadletters import Done
    from towpath.flow.delivery import WindowRules
    from towpath.flow.dispatch import EnqueueBatches
    from towpath.ledger.batches import BatchMessage
    from towpath.ledger.deadletters import Letter
    from towpath.ledger.windows import SealedWindow

log = structlog.get_logger()

T = TypeVar("T")

#: Where each process has a role of its own.
NOT_THIS_ROLE = (
    "The PostgreSQL role of this process may not do this, so that an attacker who takes it over can do no harm. Run"
    " the command as a role that may: the pipeline's for `recover` and `deadletters replay`, the migrator's for"
    " everything else"
)
#: A target and a reason are read in a line; an outbox's name is shorter.
LONGEST = 200


def carry_out(do: Callable[[], T], *, action: str, target: str, by: str) -> T:
    """Return what `do` returns. Raises NotDone, after the failure was published: it says why, and what to do."""
    try:
        return do()
    except (PipelineError, DatabaseError, InterfaceError, EventStoreError, BrokerError) as error:
        reason = _reason(error)
        try:
            with transaction.atomic():
                publish(
                    PipelineActionFailed(action=action, target=storable(target), reason=storable(reason), tried_by=by)
                )
        except (DatabaseError, InterfaceError):
            reason += ". The attempt could not be recorded either"
        raise NotDone(reason) from error


def _reason(error: Exception) -> str:
    if isinstance(error, DatabaseError) and driver.is_privilege_missing(error):
        return NOT_THIS_ROLE
    # It is stored for good.
    return without_secrets(str(error) if isinstance(error, (PipelineError, EventStoreError)) else described(error))


def storable(text: str) -> str:
    """Return what a person has typed in a form that an event may have."""
    return text.replace("\x00", "")[:LONGEST]


def replay(letters: Sequence[Letter], *, by: str, batch_ids: int, enqueue: EnqueueBatches) -> Done:
    """Send dead letters through the pipeline again; with the event, or not at all. Raises OutboxInUse."""
    found: list[BatchMessage] = []
    with transaction.atomic():
        done = deadletters.replay(letters, batch_ids=batch_ids, enqueue=found.extend)
        if done.letters:
            numbers = [letter.id for letter in done.letters]
            publish(DeadLettersReplayed(rows=len(numbers), numbers=numbers, replayed_by=by))
        _record_missed(done, action="replay", by=by)
    for batch in found:
        log.info("dead_letters_replayed", outbox=batch.outbox, rows=len(batch.ids))
    try:
        enqueue(found)
    except BrokerError as error:
        # It is done anyway: recovery seals the batches after UNSEALED_SECONDS.
        log.warning("batches_not_enqueued", batches=len(found), error=described(error))
    return done


def drop(letters: Sequence[Letter], *, by: str) -> Done:
    """Delete the events of dead letters for good; with an event for each, or not at all."""
    with transaction.atomic():
        done = deadletters.drop(letters, by=by)
        _record_missed(done, action="drop", by=by)
    for letter in done.letters:
        log.warning("dead_letter_dropped", outbox=letter.outbox, row_id=letter.row_id, error=letter.error, by=by)
    return done


def _record_missed(done: Done, *, action: str, by: str) -> None:
    """Record the letters that somebody else took first: for these, the attempt has failed."""
    if done.gone:
        numbers = sorted(number for some in done.gone.values() for number in some)
        target = storable(" ".join(map(str, numbers)))
        publish(PipelineActionFailed(action=action, target=target, reason=storable(done.missed), tried_by=by))


#: A window that is split, or that somebody else has, is delivered by others.
_UNDELIVERED = {Delivery.POSTPONED, Delivery.REFUSED, Delivery.FAILED}


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a look of recovery has done: windows delivered, and stranded rows handed to the dispatcher."""

    windows: int
    stranded_rows: int
    #: Windows that were tried, and that the event store has not taken; and why, of the first.
    undelivered: int = 0
    why: str = ""
    #: False if time ran out before every stranded row was brought back.
    is_complete: bool = True


def recover_now(
    store: EventStore,
    rules: WindowRules,
    *,
    limits: WindowLimits,
    unsealed_seconds: float,
    by: str,
    stranded_seconds: float = float("inf"),
) -> Recovered:
    """Deliver what is stuck in this process, as the recover shift does each second. Stranded rows are brought back for
    so long at most. Raises NotYours."""
    if not may_seal():
        raise NotYours(NOT_THIS_ROLE)
    until = time.monotonic() + stranded_seconds
    rows = sum(stranded.bring_back(should_stop=lambda: time.monotonic() >= until).values())
    is_complete = time.monotonic() < until
    tried: list[tuple[SealedWindow, Delivery]] = []
    recover(
        store,
        rules,
        limits=limits,
        unsealed_seconds=unsealed_seconds,
        should_stop=lambda: False,
        tell=lambda window, delivery: tried.append((window, delivery)),
    )
    windows = sum(delivery is Delivery.ACKED for _, delivery in tried)
    failed = [window for window, delivery in tried if delivery in _UNDELIVERED]
    why = (read_last_error(failed[0].id) or "another process has it now") if failed else ""
    with transaction.atomic():
        publish(RecoveryRun(windows=windows, stranded_rows=rows, run_by=by))
    return Recovered(windows, rows, len(failed), why, is_complete)
