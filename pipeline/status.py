"""Where everything is, from PostgreSQL alone: it works whatever else is down."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from django.db import connection, transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from backend.outbox.models import all_outboxes
from pipeline.models import DeadLetter

if TYPE_CHECKING:
    from datetime import datetime

    from backend.outbox.models import Outbox

#: A working shift says that it is alive every five seconds.
SHIFT_SILENT_SECONDS = 20
#: The scheduler starts a new shift every minute.
SCHEDULER_SILENT_SECONDS = 100

#: Longer than a dispatcher tries to publish to a RabbitMQ that is blocked before it gives up, so that the reason can be
#: seen all the time.
INTERRUPTION_SHOWN_SECONDS = 60


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """`pending` rows no batch holds yet; `in_flight` rows of open batches; `oldest_age_seconds` of any undelivered."""

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
    receipts: int
    mismatched_receipts: int
    dead_letters: int
    shifts: dict[str, dict[str, float]]
    errors: list[str]
    problems: list[str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def read_status() -> Status:
    """All counts are of one snapshot, so that they add up while the pipeline runs."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute(
            "SELECT count(*), count(*) FILTER (WHERE window_id IS NULL) FROM pipeline_batch",
        )
        batches, unsealed = cursor.fetchone()
        cursor.execute(
            "SELECT count(*) FILTER (WHERE acked_at IS NULL),"
            " count(*) FILTER (WHERE acked_at IS NULL AND lease_until < clock_timestamp()),"
            " count(*) FILTER (WHERE acked_at IS NOT NULL),"
            " count(*) FILTER (WHERE acked_at IS NOT NULL AND verified_at IS NULL AND last_error <> '')"
            " FROM pipeline_window"
        )
        open_windows, expired, receipts, mismatched = cursor.fetchone()
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
        cursor.execute(
            "SELECT name, extract(epoch FROM clock_timestamp() - interrupted_at)::int, last_error FROM pipeline_shift"
            " WHERE interrupted_at > clock_timestamp() - make_interval(secs => %s) ORDER BY name",
            [INTERRUPTION_SHOWN_SECONDS],
        )
        errors += [f"the {name} shift was interrupted {ago} s ago: {error}" for name, ago, error in cursor.fetchall()]
        outboxes = {name: _outbox_status(model) for name, model in all_outboxes().items()}
    dead_letters = sum(outbox.dead_letters for outbox in outboxes.values())
    return Status(
        outboxes=outboxes,
        batches=batches,
        unsealed_batches=unsealed,
        open_windows=open_windows,
        expired_leases=expired,
        receipts=receipts,
        mismatched_receipts=mismatched,
        dead_letters=dead_letters,
        shifts=shifts,
        errors=errors,
        problems=[
            *_shift_problems(shifts),
            *_mismatch_problems(mismatched),
            *_dead_letter_problems(dead_letters),
            *errors,
        ],
    )


def _outbox_status(model: type[Outbox]) -> OutboxStatus:
    name = model.outbox_name()
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT (SELECT count(*) FROM {connection.ops.quote_name(name)}),"
            " (SELECT coalesce(sum(rows), 0) FROM pipeline_batch WHERE outbox = %s),"
            " (SELECT count(*) FROM pipeline_deadletter WHERE outbox = %s)",
            [name, name],
        )
        rows, in_flight, dead = cursor.fetchone()
    return OutboxStatus(
        pending=rows - int(in_flight) - dead,
        in_flight=int(in_flight),
        dead_letters=dead,
        oldest_age_seconds=oldest_age_seconds(model),
    )


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


def _shift_problems(shifts: dict[str, dict[str, float]]) -> list[str]:
    problems = []
    for name in ("dispatch", "recover"):
        shift = shifts.get(name)
        if shift is None:
            problems.append(f"no {name} shift has ever run: start the scheduler (periodiq) and the dispatcher")
        elif shift["alive_seconds_ago"] > SHIFT_SILENT_SECONDS:
            problems.append(
                f"the {name} shift was last alive {shift['alive_seconds_ago']:.0f} s ago: is the dispatcher running?"
            )
        elif shift["taken_seconds_ago"] > SCHEDULER_SILENT_SECONDS:
            problems.append(
                f"no new {name} shift for {shift['taken_seconds_ago']:.0f} s: is the scheduler (periodiq) running?"
            )
    return problems


def _mismatch_problems(mismatched: int) -> list[str]:
    if not mismatched:
        return []
    return [f"{mismatched} window(s) of which the event store does not hold what was delivered: run `pipeline verify`"]


def _dead_letter_problems(dead_letters: int) -> list[str]:
    return [f"{dead_letters} dead letter(s): see `pipeline deadletters list`"] if dead_letters else []
