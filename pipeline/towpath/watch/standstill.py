"""What does not move, and why: sentences for `status`, from the ledger alone.

Each is a fact of the ledger, not a guess at which process runs: batches that no aggregator takes, windows that take too
long or have no owner, windows whose batches no message brought, and silent shifts. What is under a name that no outbox
class has is a separate problem (pipeline/towpath/watch/unknown_outboxes.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath import driver
from towpath.ledger import batches, open_windows
from towpath.ledger.foreign import read_foreign
from towpath.ledger.pauses import EVERY_OUTBOX
from towpath.outbox.models import OutboxEvent, all_outboxes
from towpath.watch.thresholds import CANARY_LATE_SECONDS, level_of_age

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from towpath.ledger.canaries import Canary
    from towpath.ledger.open_windows import OpenWindows
    from towpath.ledger.pauses import Pause
    from towpath.ledger.receipts import UnverifiedReceipts
    from towpath.ledger.shifts import ShiftState

#: A working shift says every second that it is alive. A person who looks learns it before the alert tells them.
_SHIFT_SILENT_SECONDS = 20
#: The scheduler ticks every minute.
_SCHEDULER_SILENT_SECONDS = 100
#: Longer than a dispatcher tries to enqueue at a RabbitMQ that is blocked before it gives up, so that the reason can be
#: seen all the time.
_INTERRUPTION_SHOWN_SECONDS = 60

#: An aggregator that has nothing to do takes a batch within three seconds; recovery comes after UNSEALED_SECONDS.
_BATCH_LATE_SECONDS = 10
#: By what the batches of these were found says whether messages arrive.
_NEWEST_WINDOWS = 20
_NEWEST_SECONDS = 60
#: As many of them, and messages get lost. Who consumes the same queues takes half.
_MISSED_WINDOWS = 5
#: Receipts are compared every minute. Those that are wrong stay unverified, and are a problem of their own.
_VERIFY_LATE_SECONDS = 300

_CANARYS_OUTBOX = OutboxEvent.outbox_name()
_QUEUE = "See docs/runbook.md, A queue is stuck"
_APART = "Give each project its own virtual host, or set QUEUE_PREFIX in one of them"


def silent_shifts(shifts: Mapping[str, ShiftState]) -> Iterator[str]:
    """Shifts without a worker, and shifts for which no tick of the scheduler arrives."""
    for name in ("dispatch", "recover"):
        shift = shifts.get(name)
        if shift is None:
            yield f"no {name} shift has ever run: start the dispatcher"
        elif shift.alive_seconds_ago > _SHIFT_SILENT_SECONDS:
            waiting = _waiting_for_locks()
            locks = f" ({waiting} session(s) are waiting for a lock: see pg_locks)" if waiting else ""
            yield (
                f"the {name} shift was last alive {shift.alive_seconds_ago:.0f} s ago: check that the dispatcher is"
                f" running, and read its log{locks}"
            )
        elif shift.taken_seconds_ago > _SCHEDULER_SILENT_SECONDS:
            yield (
                f"no tick for the {name} shift has arrived for {shift.taken_seconds_ago:.0f} s. The shift itself"
                " works. Check that the scheduler is running (`manage.py pipeline run scheduler`). See docs/runbook.md,"
                " TowpathSchedulerSilent"
            )


def pauses(found: Sequence[Pause]) -> Iterator[str]:
    """What a person has paused. It is intended, and still a problem: a person has to end it."""
    for pause in found:
        what = f"dispatch of {pause.outbox}" if pause.outbox else "dispatch of all outboxes"
        resume = f"python manage.py pipeline resume{f' {pause.outbox}' if pause.outbox else ''}"
        yield (
            f"{what} was paused {_duration(pause.seconds)} ago by {pause.paused_by} ({pause.reason}): events wait"
            f" until you run `{resume}`"
        )


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 120:  # noqa: PLR2004 - until then, minutes say more
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 72 * 60 else f"{minutes // 1440} days"


def interruptions(shifts: Mapping[str, ShiftState]) -> Iterator[str]:
    """What interrupted a shift, unless its work is known to have succeeded since."""
    for name, shift in shifts.items():
        ago = shift.interrupted_seconds_ago
        if ago is not None and ago < _INTERRUPTION_SHOWN_SECONDS:
            yield (
                f"the {name} shift was interrupted {ago:.0f} s ago, and has not reported success since:"
                f" {shift.interruption}"
            )


def late_events(oldest_age_seconds: float | None) -> Iterator[str]:
    """Events that wait for longer than the alerts allow. Another problem may say why."""
    if oldest_age_seconds is not None and level_of_age(oldest_age_seconds) != "ok":
        age = _duration(oldest_age_seconds)
        yield f"events are late: the oldest undelivered one is {age} old. See docs/runbook.md, TowpathEventsLate"


def late_batches() -> Iterator[str]:
    """Batches that no aggregator takes."""
    late = batches.count_late_batches(outboxes=list(all_outboxes()), late_seconds=_BATCH_LATE_SECONDS)
    if late:
        yield (
            f"{late.batches} batch(es) are waiting for a window, the oldest for {late.oldest_seconds} s: check that"
            " an aggregator is running. Without one, recovery delivers them after UNSEALED_SECONDS"
        )


def slow_windows(windows: OpenWindows) -> Iterator[str]:
    """Windows whose delivery takes too long."""
    for is_write_begun, slow in windows.slow.items():
        stage = "written: the event store has not answered yet" if is_write_begun else "loaded from PostgreSQL"
        yield f"{slow.windows} window(s) have been under way for up to {slow.oldest_seconds} s, and are being {stage}"


def unclaimed_windows(windows: OpenWindows) -> Iterator[str]:
    """Windows that the recover shift should have taken over."""
    if unclaimed := windows.unclaimed:
        yield (
            f"{unclaimed.windows} window(s) have had no owner for up to {unclaimed.oldest_seconds} s: the recover"
            " shift does not reach them. Run `python manage.py pipeline recover`, which delivers them or says why it"
            " cannot"
        )


def stuck_messages() -> Iterator[str]:
    """No message brings the batches of windows, or some messages go elsewhere."""
    found = open_windows.read_newest_found(seconds=_NEWEST_SECONDS, limit=_NEWEST_WINDOWS)
    from_ledger = found.count("ledger")
    if not found:
        return
    if "message" in found:
        if len(found) == _NEWEST_WINDOWS and from_ledger >= _MISSED_WINDOWS:
            yield (
                f"messages are missing for the batches of {from_ledger} of the last {len(found)} windows: aggregators"
                " found these batches in the ledger, seconds later. Check whether something else consumes the"
                f" pipeline's queues, such as another project on this virtual host. {_APART}"
            )
    elif from_ledger:
        yield (
            f"no message arrived for the batches of the last {len(found)} window(s): aggregators found them in the"
            f" ledger, seconds later. Check whether the queues of batches are stuck. {_QUEUE}"
        )
    else:
        yield (
            f"no aggregator took the batches of the last {len(found)} window(s), so recovery delivered them later."
            " Check that an aggregator is running. If its queues have consumers all the same, one hangs, or they are"
            f" another project's. {_APART}"
        )


def shared_queues() -> Iterator[str]:
    """Queues in which another project's messages arrive."""
    for foreign in read_foreign():
        yield (
            f"another project sends messages to the queue {foreign.queue}, the last one {foreign.seconds_ago:.0f} s"
            f" ago (its ledger is {foreign.ledger}): the two projects consume each other's messages. That delays events"
            f" by seconds. {_APART}"
        )


def unverified_receipts(unverified: UnverifiedReceipts) -> Iterator[str]:
    """Receipts are not compared with the event store."""
    age = unverified.oldest_uncompared_seconds
    if age is not None and age > _VERIFY_LATE_SECONDS:
        yield (
            f"receipts have not been verified for {age:.0f} s: see docs/runbook.md, TowpathReceiptsUnverified, and"
            " the dispatcher's log for `verify_postponed` and `verify_failed`"
        )


def late_canary(canary: Canary | None, pauses: Sequence[Pause]) -> Iterator[str]:
    """That the pipeline's own event is not in the event store in time, or that nobody sends one."""
    if canary is None or any(pause.outbox in {EVERY_OUTBOX, _CANARYS_OUTBOX} for pause in pauses):
        return
    if (canary.late_seconds or 0.0) > CANARY_LATE_SECONDS:
        if canary.last_error:
            yield (
                f"the event store does not say whether the canary is stored: {canary.last_error}. See docs/runbook.md,"
                " TowpathCanaryLate"
            )
        else:
            yield (
                f"the canary has been on its way for {_duration(canary.late_seconds or 0.0)}, but is not in the event"
                " store: see docs/runbook.md, TowpathCanaryLate"
            )
    elif canary.late_seconds is None and canary.published_seconds_ago > canary.every_seconds + CANARY_LATE_SECONDS:
        ago = _duration(canary.published_seconds_ago)
        yield f"no canary has been sent for {ago}: see docs/runbook.md, TowpathCanaryLate"


def _waiting_for_locks() -> int:
    """Return how many sessions wait for a lock, as far as this role may see them."""
    with driver.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return int(cursor.fetchone()[0])
