"""What does not move, and why: for `status`, from the ledger alone.

Each is a fact of the ledger, and not a guess at which process runs: batches that nobody takes, windows that are under
way for too long or that nobody has, windows whose batches no message has brought, shifts that say nothing. What is
under a name that no outbox class has is a problem of its own (pipeline/towpath/flow/outboxes.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath.conf.current import config
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.backends.utils import CursorWrapper

#: A working shift says every second that it is alive.
SHIFT_SILENT_SECONDS = 20
#: The scheduler ticks every minute.
SCHEDULER_SILENT_SECONDS = 100
#: Longer than a dispatcher tries to publish to a RabbitMQ that is blocked before it gives up, so that the reason can be
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
#: Receipts are compared every minute. Those that are wrong stay unverified, and are a problem of their own.
_VERIFY_LATE_SECONDS = 300
_OLDEST_RECEIPTS = 100

_QUEUE = "See docs/runbook.md, A queue that does not move"


def problems(cursor: CursorWrapper) -> Iterator[str]:
    """Everything that stands still, with its cause where the ledger knows it."""
    yield from _batches(cursor)
    yield from _windows(cursor)
    yield from _messages(cursor)
    yield from _receipts(cursor)


def interruptions(cursor: CursorWrapper) -> Iterator[str]:
    """What interrupted a shift, unless its work is known to have succeeded since."""
    cursor.execute(
        "SELECT name, extract(epoch FROM clock_timestamp() - interrupted_at)::int, last_error FROM pipeline_shift"
        " WHERE interrupted_at > clock_timestamp() - make_interval(secs => %s) ORDER BY name",
        [INTERRUPTION_SHOWN_SECONDS],
    )
    for name, ago, error in cursor.fetchall():
        yield f"the {name} shift was interrupted {ago} s ago, and is not known to have succeeded since: {error}"


def shift_problems(shifts: dict[str, dict[str, float]], *, waiting_for_locks: int = 0) -> Iterator[str]:
    locks = f" ({waiting_for_locks} session(s) wait for a lock: see pg_locks)" if waiting_for_locks else ""
    for name in ("dispatch", "recover"):
        shift = shifts.get(name)
        if shift is None:
            yield f"no {name} shift has ever run: start the dispatcher"
        elif shift["alive_seconds_ago"] > SHIFT_SILENT_SECONDS:
            yield (
                f"the {name} shift was last alive {shift['alive_seconds_ago']:.0f} s ago: is the dispatcher running,"
                f" and what does its log say?{locks}"
            )
        elif shift["taken_seconds_ago"] > SCHEDULER_SILENT_SECONDS:
            yield (
                f"no new {name} shift for {shift['taken_seconds_ago']:.0f} s: no tick of the scheduler (periodiq)"
                " arrives. The shift itself works. Is the scheduler running, and does the queue dispatch move?"
                f" {_QUEUE}"
            )


def waiting_for_locks(cursor: CursorWrapper) -> int:
    """Sessions that wait for a lock that somebody else holds, as far as this role may see them."""
    cursor.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return int(cursor.fetchone()[0])


def _batches(cursor: CursorWrapper) -> Iterator[str]:
    cursor.execute(
        "SELECT count(*), extract(epoch FROM clock_timestamp() - min(dispatched_at))::int FROM pipeline_batch"
        " WHERE window_id IS NULL AND dispatched_at < clock_timestamp() - make_interval(secs => %s)"
        " AND outbox = ANY(%s)",
        [_BATCH_LATE_SECONDS, list(all_outboxes())],
    )
    late, age = cursor.fetchone()
    if late:
        yield (
            f"{late} batch(es) are in no window, the oldest for {age} s: is an aggregator running? Without one,"
            f" recovery takes them after UNSEALED_SECONDS ({config().unsealed_seconds:g} s)"
        )


def _windows(cursor: CursorWrapper) -> Iterator[str]:
    cursor.execute(
        "SELECT is_write_begun, count(*), extract(epoch FROM clock_timestamp() - min(sealed_at))::int"
        " FROM pipeline_window WHERE acked_at IS NULL AND failed_at IS NULL AND lease_until >= clock_timestamp()"
        " AND sealed_at < clock_timestamp() - make_interval(secs => %s) GROUP BY is_write_begun",
        [_WINDOW_LATE_SECONDS],
    )
    for is_write_begun, windows, age in cursor.fetchall():
        stage = "written: the event store has not answered yet" if is_write_begun else "loaded from PostgreSQL"
        yield f"{windows} window(s) have been under way for up to {age} s, and are being {stage}"
    cursor.execute(
        "SELECT count(*), extract(epoch FROM clock_timestamp() - min(lease_until))::int FROM pipeline_window AS w"
        " WHERE acked_at IS NULL AND lease_until < clock_timestamp() - make_interval(secs => %s)"
        " AND NOT EXISTS (SELECT FROM pipeline_batch AS b WHERE b.window_id = w.id AND b.outbox <> ALL(%s))",
        [_TAKEOVER_LATE_SECONDS, list(all_outboxes())],
    )
    windows, age = cursor.fetchone()
    if windows:
        yield (
            f"{windows} window(s) have had nobody for up to {age} s: the recover shift does not get to them."
            " `pipeline recover` does the same by hand and says why"
        )


def _messages(cursor: CursorWrapper) -> Iterator[str]:
    # `now()`, because an index is of no use for what may change from row to row.
    cursor.execute(
        "(SELECT found FROM pipeline_window WHERE acked_at > now() - make_interval(secs => %s)"
        " ORDER BY acked_at DESC LIMIT %s) UNION ALL"
        " (SELECT found FROM pipeline_window WHERE acked_at IS NULL"
        " AND sealed_at > now() - make_interval(secs => %s) LIMIT %s)",
        [_NEWEST_SECONDS, _NEWEST_WINDOWS, _NEWEST_SECONDS, _NEWEST_WINDOWS],
    )
    found = [by for (by,) in cursor.fetchall()]
    if not found or "message" in found:
        return
    if "ledger" in found:
        yield (
            f"no message has brought the batches of the last {len(found)} window(s): aggregators found them in the"
            f" ledger, which takes seconds longer. Does the queue aggregate move? {_QUEUE}"
        )
    else:
        yield (
            f"no aggregator has taken the batches of the last {len(found)} window(s): recovery did, which takes longer."
            " Is an aggregator running?"
        )


def _receipts(cursor: CursorWrapper) -> Iterator[str]:
    cursor.execute(
        "SELECT extract(epoch FROM clock_timestamp() - min(acked_at))::int FROM (SELECT acked_at, contradiction"
        " FROM pipeline_window WHERE acked_at IS NOT NULL AND verified_at IS NULL ORDER BY acked_at LIMIT %s)"
        " AS oldest WHERE contradiction IS NULL",
        [_OLDEST_RECEIPTS],
    )
    (age,) = cursor.fetchone()
    if age is not None and age > _VERIFY_LATE_SECONDS:
        yield (
            f"nobody has verified receipts for {age} s: see docs/runbook.md, TowpathReceiptsUnverified,"
            " and the dispatcher's log for `verify_postponed` and `verify_failed`"
        )
