"""What does not move, and why: sentences for `status`, from the ledger alone.

Each is a fact of the ledger, and not a guess at which process runs: batches that nobody takes, windows that are under
way for too long or that nobody has claimed, windows whose batches no message has brought, shifts that say nothing. What
is under a name that no outbox class has is a problem of its own (pipeline/towpath/watch/unknown_outboxes.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath import driver
from towpath.ledger import batches, open_windows
from towpath.ledger.foreign import read_foreign
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from towpath.ledger.receipts import UnverifiedReceipts
    from towpath.ledger.shifts import ShiftState

#: A working shift says every second that it is alive.
SHIFT_SILENT_SECONDS = 20
#: The scheduler ticks every minute.
SCHEDULER_SILENT_SECONDS = 100
#: Longer than a dispatcher tries to enqueue at a RabbitMQ that is blocked before it gives up, so that the reason can be
#: seen all the time.
INTERRUPTION_SHOWN_SECONDS = 60

#: An aggregator that has nothing to do takes a batch within three seconds; recovery comes after UNSEALED_SECONDS.
_BATCH_LATE_SECONDS = 10
#: A window is loaded and written in a second or two.
_WINDOW_LATE_SECONDS = 10
#: Recovery takes a window over as soon as its lease has run out.
_TAKEOVER_LATE_SECONDS = 20
#: By what the batches of these were found says whether messages arrive.
_NEWEST_WINDOWS = 20
_NEWEST_SECONDS = 60
#: As many of them, and messages get lost. Who consumes the same queues takes half.
_MISSED_WINDOWS = 5
#: Receipts are compared every minute. Those that are wrong stay unverified, and are a problem of their own.
_VERIFY_LATE_SECONDS = 300

_QUEUE = "See docs/runbook.md, A queue that does not move"


def silent_shifts(shifts: Mapping[str, ShiftState]) -> Iterator[str]:
    """Shifts at which nobody works, and those of which no tick of the scheduler arrives."""
    for name in ("dispatch", "recover"):
        shift = shifts.get(name)
        if shift is None:
            yield f"no {name} shift has ever run: start the dispatcher"
        elif shift.alive_seconds_ago > SHIFT_SILENT_SECONDS:
            waiting = _waiting_for_locks()
            locks = f" ({waiting} session(s) wait for a lock: see pg_locks)" if waiting else ""
            yield (
                f"the {name} shift was last alive {shift.alive_seconds_ago:.0f} s ago: is the dispatcher running,"
                f" and what does its log say?{locks}"
            )
        elif shift.taken_seconds_ago > SCHEDULER_SILENT_SECONDS:
            yield (
                f"no tick for the {name} shift has arrived for {shift.taken_seconds_ago:.0f} s. The shift itself"
                " works. Is the scheduler running (`manage.py pipeline run scheduler`), and does the queue of its ticks"
                f" move? {_QUEUE}"
            )


def interruptions(shifts: Mapping[str, ShiftState]) -> Iterator[str]:
    """What interrupted a shift, unless its work is known to have succeeded since."""
    for name, shift in shifts.items():
        ago = shift.interrupted_seconds_ago
        if ago is not None and ago < INTERRUPTION_SHOWN_SECONDS:
            yield (
                f"the {name} shift was interrupted {ago:.0f} s ago, and is not known to have succeeded since:"
                f" {shift.interruption}"
            )


def late_batches() -> Iterator[str]:
    """Batches that no aggregator takes."""
    late = batches.count_late_batches(outboxes=list(all_outboxes()), late_seconds=_BATCH_LATE_SECONDS)
    if late:
        yield (
            f"{late.batches} batch(es) are in no window, the oldest for {late.oldest_seconds} s: is an aggregator"
            " running? Without one, recovery takes them after UNSEALED_SECONDS"
        )


def slow_windows() -> Iterator[str]:
    """Windows that somebody has been delivering for too long."""
    for is_write_begun, slow in open_windows.count_slow_windows(late_seconds=_WINDOW_LATE_SECONDS).items():
        stage = "written: the event store has not answered yet" if is_write_begun else "loaded from PostgreSQL"
        yield f"{slow.windows} window(s) have been under way for up to {slow.oldest_seconds} s, and are being {stage}"


def unclaimed_windows() -> Iterator[str]:
    """Windows that the recover shift should have taken over."""
    unclaimed = open_windows.count_unclaimed_windows(outboxes=list(all_outboxes()), late_seconds=_TAKEOVER_LATE_SECONDS)
    if unclaimed:
        yield (
            f"{unclaimed.windows} window(s) have had nobody for up to {unclaimed.oldest_seconds} s: the recover shift"
            " does not get to them. `pipeline recover` does the same by hand and says why"
        )


def stuck_messages() -> Iterator[str]:
    """That no message brings the batches of windows, or that some messages go elsewhere."""
    found = open_windows.read_newest_found(seconds=_NEWEST_SECONDS, limit=_NEWEST_WINDOWS)
    from_ledger = found.count("ledger")
    if not found:
        return
    if "message" in found:
        if len(found) == _NEWEST_WINDOWS and from_ledger >= _MISSED_WINDOWS:
            yield (
                f"no message has brought the batches of {from_ledger} of the last {len(found)} windows: aggregators"
                " found them in the ledger, which takes seconds longer. Does somebody else consume the queues of"
                " batches, such as another project on this virtual host?"
            )
    elif from_ledger:
        yield (
            f"no message has brought the batches of the last {len(found)} window(s): aggregators found them in the"
            f" ledger, which takes seconds longer. Do the queues of batches move? {_QUEUE}"
        )
    else:
        yield (
            f"no aggregator has taken the batches of the last {len(found)} window(s): recovery did, which takes longer."
            " Is an aggregator running?"
        )


def shared_queues() -> Iterator[str]:
    """Queues in which another project's messages arrive."""
    for foreign in read_foreign():
        yield (
            f"another project's messages arrive in the queue {foreign.queue}, the last one {foreign.seconds_ago:.0f} s"
            f" ago (from the ledger {foreign.ledger}): each project takes messages of the other, whose events come"
            " seconds later. Give each a virtual host of its own, or one of them a QUEUE_PREFIX"
        )


def unverified_receipts(unverified: UnverifiedReceipts) -> Iterator[str]:
    """That nobody compares receipts with the event store."""
    age = unverified.oldest_uncompared_seconds
    if age is not None and age > _VERIFY_LATE_SECONDS:
        yield (
            f"nobody has verified receipts for {age:.0f} s: see docs/runbook.md, TowpathReceiptsUnverified,"
            " and the dispatcher's log for `verify_postponed` and `verify_failed`"
        )


def _waiting_for_locks() -> int:
    """How many sessions wait for a lock that somebody else holds, as far as this role may see them."""
    with driver.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return int(cursor.fetchone()[0])
