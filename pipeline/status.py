"""Where everything is, from PostgreSQL alone: it works whatever else is down, and costs the same whatever has piled up.

Rows and receipts are counted up to COUNTED_ROWS; beyond that, PostgreSQL's statistics say about how many there are.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from django.db import connection
from django.db.models import Exists, OuterRef
from django.utils import timezone

from backend.outbox.models import all_outboxes
from pipeline import standstill, stranded
from pipeline.database import hiding_problems
from pipeline.look import one_moment
from pipeline.models import DeadLetter
from pipeline.outboxes import problems as unknown_outbox_problems

if TYPE_CHECKING:
    from datetime import datetime

    from django.db.backends.utils import CursorWrapper

    from backend.outbox.models import Outbox

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
    missing_rows: int
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
    """All counts are of one snapshot, so that they add up while the pipeline runs."""
    with one_moment() as cursor:
        # What is in flight is bounded by MAX_OPEN_WINDOWS.
        cursor.execute("SELECT count(*), count(*) FILTER (WHERE window_id IS NULL) FROM pipeline_batch")
        batches, unsealed = cursor.fetchone()
        cursor.execute(
            "SELECT count(*), count(*) FILTER (WHERE lease_until < clock_timestamp()) FROM pipeline_window"
            " WHERE acked_at IS NULL"
        )
        open_windows, expired = cursor.fetchone()
        # The newest: at the other end of the index are those that have just been purged.
        receipts = _about(
            cursor,
            "pipeline_window",
            f"SELECT FROM pipeline_window WHERE acked_at IS NOT NULL ORDER BY acked_at DESC LIMIT {COUNTED_ROWS}",
        )
        mismatched, mismatched_since = read_mismatches(cursor)
        cursor.execute(
            "SELECT count(*), coalesce(sum(missing), 0) FROM"
            f" (SELECT missing FROM pipeline_window WHERE missing > 0 ORDER BY acked_at LIMIT {COUNTED_ROWS}) AS oldest"
        )
        windows_with_missing, missing = cursor.fetchone()
        cursor.execute(
            "SELECT last_error, count(*) FROM pipeline_window WHERE acked_at IS NULL AND last_error <> ''"
            " GROUP BY last_error ORDER BY count(*) DESC LIMIT 5"
        )
        errors = [f"{count} open window(s): {error}" for error, count in cursor.fetchall()]
        cursor.execute(
            "SELECT name, extract(epoch FROM clock_timestamp() - alive_at)::float,"
            " extract(epoch FROM clock_timestamp() - taken_at)::float FROM pipeline_shift"
        )
        shifts = {
            name: {"alive_seconds_ago": round(alive, 1), "taken_seconds_ago": round(taken, 1)}
            for name, alive, taken in cursor.fetchall()
        }
        errors += standstill.interruptions(cursor)
        standstills = [*standstill.problems(cursor)]
        outboxes = {name: read_outbox(cursor, model) for name, model in all_outboxes().items()}
        stranded_problems = [*stranded.problems(cursor)]
        hidden = [*hiding_problems(cursor, is_with_lean=False)]
        outbox_problems = [*unknown_outbox_problems(cursor)]
    dead_letters = sum(outbox.dead_letters for outbox in outboxes.values())
    return Status(
        outboxes=outboxes,
        batches=batches,
        unsealed_batches=unsealed,
        open_windows=open_windows,
        expired_leases=expired,
        receipts=receipts,
        mismatched_receipts=mismatched,
        mismatched_since=mismatched_since,
        missing_rows=int(missing),
        dead_letters=dead_letters,
        shifts=shifts,
        errors=errors,
        problems=[
            *standstill.shift_problems(shifts),
            *standstills,
            *mismatch_problems(mismatched, since=mismatched_since),
            *_missing_problems(windows_with_missing, rows=int(missing)),
            *_dead_letter_problems(dead_letters),
            *stranded_problems,
            *hidden,
            *outbox_problems,
            *errors,
        ],
    )


def read_outbox(cursor: CursorWrapper, model: type[Outbox]) -> OutboxStatus:
    """The state of one outbox."""
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
        oldest_age_seconds=oldest_age_seconds(model),
    )


def read_mismatches(cursor: CursorWrapper) -> tuple[int, str]:
    """How many receipts the event store contradicts, COUNTED_ROWS at most, and since when.

    Verify goes from the oldest receipt that is not verified to the newest, so those which it has found wrong come first
    among them: there is no need to look at all that wait, when it has not run for days.
    """
    cursor.execute(
        "SELECT count(*), min(dispatched_from) FROM (SELECT dispatched_from, last_error FROM pipeline_window"
        f" WHERE acked_at IS NOT NULL AND verified_at IS NULL ORDER BY acked_at LIMIT {COUNTED_ROWS}) AS oldest"
        " WHERE last_error <> ''"
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


def _missing_problems(windows: int, *, rows: int) -> list[str]:
    if not windows:
        return []
    what = f"{rows} row(s) of {windows} window(s) were deleted from their outbox before they were loaded"
    return [f"{what}, and are not stored: see docs/runbook.md, TowpathRowsMissing"]


def _dead_letter_problems(dead_letters: int) -> list[str]:
    return [f"{dead_letters} dead letter(s): see `pipeline deadletters list`"] if dead_letters else []
