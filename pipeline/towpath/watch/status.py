"""Where everything is, from PostgreSQL alone: it works whatever else is down, and costs the same whatever has piled up.

Rows and receipts are counted up to COUNTED_ROWS; beyond that, PostgreSQL's statistics say about how many there are.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from django.db import connection
from django.db.models import Exists, OuterRef
from django.utils import timezone

from towpath.flow.outboxes import problems as unknown_outbox_problems
from towpath.ledger.models import DeadLetter
from towpath.ledger.moment import Parts, one_moment
from towpath.outbox.models import all_outboxes
from towpath.watch import standstill, stranded
from towpath.watch.database import hiding_problems

if TYPE_CHECKING:
    from datetime import datetime

    from django.db.backends.utils import CursorWrapper

    from towpath.outbox.models import Outbox

#: Exact up to here, and milliseconds; the statistics are some seconds and some percent off.
COUNTED_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """`pending` rows no batch holds yet, about; `in_flight` rows of open batches; `oldest_age_seconds` of any
    undelivered."""

    pending: int
    in_flight: int
    dead_letters: int
    oldest_age_seconds: float | None


@dataclass(frozen=True, slots=True)
class Status:
    """The ledger at one moment."""

    outboxes: dict[str, OutboxStatus]
    batches: int
    unsealed_batches: int
    open_windows: int
    expired_leases: int
    #: About.
    receipts: int
    mismatched_receipts: int
    #: Since when: the first dispatch of their rows; empty without one.
    mismatched_since: str
    #: Rows that were deleted from their outbox before they were loaded.
    vanished_rows: int
    dead_letters: int
    shifts: dict[str, dict[str, float]]
    errors: list[str]
    problems: list[str]

    def has_estimates(self) -> bool:
        """True if a count was too large to be counted."""
        return any(count >= COUNTED_ROWS for count in (self.receipts, *(one.pending for one in self.outboxes.values())))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def read_status() -> Status:
    """All counts are of one snapshot, so that they add up while the pipeline runs. What cannot be read is a problem."""
    ledger = _Ledger()
    outboxes: dict[str, OutboxStatus] = {}
    others: list[str] = []
    with one_moment() as cursor:
        parts = Parts(cursor)
        with parts.part("the ledger"):
            ledger = _read_ledger(cursor)
        for name, model in all_outboxes().items():
            with parts.part(name):
                outboxes[name] = read_outbox(cursor, model)
            if name not in outboxes:
                continue
            with parts.part(f"the age of the oldest event of {name}"):
                outboxes[name] = replace(outboxes[name], oldest_age_seconds=oldest_age_seconds(model))
            with parts.part(f"whether rows of {name} are never dispatched"):
                others += stranded.problems(model)
        with parts.part("what hides rows"):
            others += hiding_problems(cursor, is_with_lean=False)
        with parts.part("names that no outbox class has"):
            others += unknown_outbox_problems(cursor)
    dead_letters = sum(outbox.dead_letters for outbox in outboxes.values())
    return Status(
        outboxes=outboxes,
        batches=ledger.batches,
        unsealed_batches=ledger.unsealed,
        open_windows=ledger.open_windows,
        expired_leases=ledger.expired,
        receipts=ledger.receipts,
        mismatched_receipts=ledger.mismatched,
        mismatched_since=ledger.mismatched_since,
        vanished_rows=ledger.vanished,
        dead_letters=dead_letters,
        shifts=ledger.shifts,
        errors=ledger.errors,
        problems=[
            *parts.unread,
            *ledger.standstills,
            *mismatch_problems(ledger.mismatched, since=ledger.mismatched_since),
            *_vanished_problems(ledger.windows_with_vanished, rows=ledger.vanished),
            *_dead_letter_problems(dead_letters),
            *others,
            *ledger.errors,
        ],
    )


@dataclass(slots=True)
class _Ledger:
    """What the ledger says; nothing, where it could not be read."""

    batches: int = 0
    unsealed: int = 0
    open_windows: int = 0
    expired: int = 0
    receipts: int = 0
    mismatched: int = 0
    mismatched_since: str = ""
    windows_with_vanished: int = 0
    vanished: int = 0
    shifts: dict[str, dict[str, float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    standstills: list[str] = field(default_factory=list)


def _read_ledger(cursor: CursorWrapper) -> _Ledger:
    found = _Ledger()
    # What is in flight is bounded by MAX_OPEN_WINDOWS.
    cursor.execute("SELECT count(*), count(*) FILTER (WHERE window_id IS NULL) FROM pipeline_batch")
    found.batches, found.unsealed = cursor.fetchone()
    cursor.execute(
        "SELECT count(*), count(*) FILTER (WHERE lease_until < clock_timestamp()) FROM pipeline_window"
        " WHERE acked_at IS NULL"
    )
    found.open_windows, found.expired = cursor.fetchone()
    # The newest: at the other end of the index are those that have just been purged.
    found.receipts = _about(
        cursor,
        "pipeline_window",
        f"SELECT FROM pipeline_window WHERE acked_at IS NOT NULL ORDER BY acked_at DESC LIMIT {COUNTED_ROWS}",
    )
    found.mismatched, found.mismatched_since = read_mismatches(cursor)
    cursor.execute(
        "SELECT count(DISTINCT id), coalesce(sum(value::bigint), 0)::bigint FROM (SELECT id, vanished"
        " FROM pipeline_window WHERE vanished IS NOT NULL AND closed_reason = '' ORDER BY acked_at"
        f" LIMIT {COUNTED_ROWS}) AS oldest, jsonb_each_text(vanished)"
    )
    found.windows_with_vanished, found.vanished = cursor.fetchone()
    cursor.execute(
        "SELECT last_error, count(*) FROM pipeline_window WHERE acked_at IS NULL AND failed_at IS NOT NULL"
        " GROUP BY last_error ORDER BY count(*) DESC LIMIT 5"
    )
    found.errors = [f"{count} open window(s): {error}" for error, count in cursor.fetchall()]
    cursor.execute(
        "SELECT name, extract(epoch FROM clock_timestamp() - alive_at)::float,"
        " extract(epoch FROM clock_timestamp() - taken_at)::float FROM pipeline_shift"
    )
    found.shifts = {
        name: {"alive_seconds_ago": round(alive, 1), "taken_seconds_ago": round(taken, 1)}
        for name, alive, taken in cursor.fetchall()
    }
    found.errors += standstill.interruptions(cursor)
    locks = standstill.waiting_for_locks(cursor)
    found.standstills = [
        *standstill.shift_problems(found.shifts, waiting_for_locks=locks),
        *standstill.problems(cursor),
    ]
    return found


def read_outbox(cursor: CursorWrapper, model: type[Outbox]) -> OutboxStatus:
    """The state of one outbox, without the age of its oldest event, which is to be asked for by itself: of a lean one
    it is in another table."""
    name = model.outbox_name()
    table = connection.ops.quote_name(name)
    rows = _about(cursor, table, f"SELECT FROM {table} ORDER BY id LIMIT {COUNTED_ROWS}")
    cursor.execute(
        "SELECT (SELECT coalesce(sum(rows), 0) FROM pipeline_batch WHERE outbox = %s),"
        " (SELECT count(*) FROM pipeline_deadletter WHERE outbox = %s)",
        [name, name],
    )
    in_flight, dead = cursor.fetchone()
    return OutboxStatus(
        pending=max(0, rows - int(in_flight) - dead),  # the estimate may be too low
        in_flight=int(in_flight),
        dead_letters=dead,
        oldest_age_seconds=None,
    )


def read_mismatches(cursor: CursorWrapper) -> tuple[int, str]:
    """How many receipts the event store contradicts, COUNTED_ROWS at most, and since when.

    Verify goes from the oldest receipt that is not verified to the newest, so those which it has found wrong come first
    among them: there is no need to look at all that wait, when it has not run for days.
    """
    cursor.execute(
        "SELECT count(*), min(dispatched_from) FROM (SELECT dispatched_from, contradiction FROM pipeline_window"
        f" WHERE acked_at IS NOT NULL AND verified_at IS NULL ORDER BY acked_at LIMIT {COUNTED_ROWS}) AS oldest"
        " WHERE contradiction IS NOT NULL"
    )
    count, since = cursor.fetchone()
    return count, since.isoformat(timespec="seconds") if since else ""


def _about(cursor: CursorWrapper, table: str, first_rows: str) -> int:
    """How many rows there are: exactly below COUNTED_ROWS, which `first_rows` selects at most."""
    cursor.execute(
        f"SELECT (SELECT count(*) FROM ({first_rows}) AS counted), pg_stat_get_live_tuples(%s::regclass)", [table]
    )
    counted, estimated = cursor.fetchone()
    return int(counted if counted < COUNTED_ROWS else max(counted, estimated))


def oldest_age_seconds(model: type[Outbox]) -> float | None:
    """The age of the oldest event in an outbox that is no dead letter, by the event's own time: a row does not record
    when it was committed. None when there is none."""
    rows = model._base_manager
    is_dead = DeadLetter.objects.filter(outbox=model.outbox_name(), row_id=OuterRef("id"))
    oldest_id = rows.filter(~Exists(is_dead)).order_by("xid", "id").values_list("id", flat=True).first()
    if oldest_id is None:
        return None
    # In a second look: joined with what a lean row points to, the planner may choose to sort all of it first.
    event_date_time = model.event_columns()["event_date_time"]
    oldest: datetime | None = rows.filter(id=oldest_id).values_list(event_date_time, flat=True).first()
    return None if oldest is None else round(max(0.0, (timezone.now() - oldest).total_seconds()), 3)


def mismatch_problems(mismatched: int, *, since: str) -> list[str]:
    """What is wrong with the receipts, and the command that shows each of them."""
    if not mismatched:
        return []
    count = f"{mismatched} or more" if mismatched >= COUNTED_ROWS else str(mismatched)
    command = f"python manage.py pipeline verify --since {since}"
    return [f"{count} window(s) of which the event store does not hold what was delivered: run `{command}`"]


def _vanished_problems(windows: int, *, rows: int) -> list[str]:
    if not windows:
        return []
    what = f"{rows} row(s) of {windows} window(s) were deleted from their outbox before they were loaded"
    return [f"{what}, and are not stored: see docs/runbook.md, TowpathRowsVanished"]


def _dead_letter_problems(dead_letters: int) -> list[str]:
    return [f"{dead_letters} dead letter(s): see `pipeline deadletters list`"] if dead_letters else []
