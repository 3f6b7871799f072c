"""How much is where, counted at one moment from PostgreSQL alone. It costs the same however much has piled up.

Rows and receipts are counted up to a limit. Above it, PostgreSQL's statistics give an estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from django.db import connection
from django.db.models import Case, Value, When
from django.db.models.functions import Now
from django.db.models.lookups import GreaterThan, LessThan
from django.utils import timezone

from towpath.ledger.batches import BatchCounts, count_batches
from towpath.ledger.canaries import Canary, read_canary
from towpath.ledger.cursors import read_last_dispatches
from towpath.ledger.deadletters import count_dead_letters
from towpath.ledger.moment import estimate
from towpath.ledger.open_windows import OpenWindows, read_open_windows
from towpath.ledger.pauses import Pause, read_pauses
from towpath.ledger.pending import OldestBatch, PendingRows, read_oldest_batches, read_pending
from towpath.ledger.receipts import (
    COUNTED_RECEIPTS,
    UnverifiedReceipts,
    Vanished,
    count_receipts,
    count_vanished,
    read_unverified_receipts,
)
from towpath.ledger.seals import Seal, UnsealedProofs, count_unsealed, newest
from towpath.ledger.shifts import ShiftState, read_shifts
from towpath.ledger.stranded import count_dead_rows
from towpath.ledger.suspect import count_contradicted
from towpath.outbox.models import all_outboxes
from towpath.watch.vacuum import Holder, find_holders

if TYPE_CHECKING:
    from django.db.models.expressions import Combinable

    from towpath.ledger.moment import Parts
    from towpath.outbox.models import Outbox

#: Counts are exact up to here, in milliseconds. The statistics are some seconds and some percent off.
COUNTED_ROWS = 10_000
#: A window is loaded and written in a second or two.
_WINDOW_LATE_SECONDS = 10
#: A day more than Python's first time, which has none in zones west of UTC.
_FIRST_TIME = datetime(1, 1, 2, tzinfo=UTC)
#: Recovery takes a window over as soon as its lease has run out.
_TAKEOVER_LATE_SECONDS = 20


@dataclass(frozen=True, slots=True)
class OutboxFigures:
    """The undelivered rows of one outbox: `pending` in no batch yet, `in_flight` in one, or dead letters.

    `pending` is an estimate above COUNTED_ROWS. `oldest_age_seconds` is the age of the oldest event that is not a dead
    letter, by the event's own time; None without one, or if it could not be read. `dead_rows` is about how many
    delivered rows vacuum has not removed yet.
    """

    pending: int
    in_flight: int
    dead_letters: int
    oldest_age_seconds: float | None = None
    dead_rows: int = 0


@dataclass(frozen=True, slots=True)
class LedgerFigures:
    """What the ledger says about windows, receipts, shifts and cursors; empty if it could not be read."""

    open_windows: OpenWindows = field(default_factory=OpenWindows)
    #: An estimate above COUNTED_RECEIPTS.
    receipts: int = 0
    unverified: UnverifiedReceipts = field(default_factory=UnverifiedReceipts)
    vanished: Vanished = field(default_factory=Vanished)
    #: Windows that a later check found to be changed in the event store.
    contradicted_proofs: int = 0
    #: Proofs that no seal covers yet: only whether there are any.
    unsealed_proofs: UnsealedProofs = field(default_factory=UnsealedProofs)
    shifts: Mapping[str, ShiftState] = field(default_factory=dict)
    #: By outbox.
    last_dispatches: Mapping[str, datetime] = field(default_factory=dict)
    #: What a person has paused.
    pauses: Sequence[Pause] = ()
    last_seal: Seal | None = None
    #: None while none is sent.
    canary: Canary | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """The outboxes and the ledger at one moment. An outbox that could not be read is left out."""

    outboxes: Mapping[str, OutboxFigures]
    batches: BatchCounts
    ledger: LedgerFigures
    #: False if a table of the ledger could not be read in time: then nothing of the ledger is counted.
    is_ledger_read: bool
    #: What holds back vacuum, the oldest first; None if that could not be read in time.
    holders: Sequence[Holder] | None = ()

    @property
    def pending(self) -> int:
        return sum(outbox.pending for outbox in self.outboxes.values())

    @property
    def in_flight(self) -> int:
        return sum(outbox.in_flight for outbox in self.outboxes.values())

    @property
    def waiting(self) -> int:
        """The rows that are to be delivered: pending, or in flight."""
        return self.pending + self.in_flight

    @property
    def dead_letters(self) -> int:
        return sum(outbox.dead_letters for outbox in self.outboxes.values())

    @property
    def oldest_age_seconds(self) -> float | None:
        """The age of the oldest undelivered event of all; None without one."""
        ages = (outbox.oldest_age_seconds for outbox in self.outboxes.values())
        return max((age for age in ages if age is not None), default=None)

    @property
    def are_outboxes_read(self) -> bool:
        """False if an outbox could not be read in time: then sums over all of them are too small."""
        return self.outboxes.keys() >= all_outboxes().keys()

    @property
    def is_age_known(self) -> bool:
        """False if an outbox, or the age of its oldest event, could not be read: then there may be an older one."""
        return self.are_outboxes_read and not any(
            outbox.oldest_age_seconds is None and outbox.pending + outbox.in_flight for outbox in self.outboxes.values()
        )

    def has_estimates(self) -> bool:
        """True if something was too much to be counted."""
        is_pending_estimated = any(outbox.pending >= COUNTED_ROWS for outbox in self.outboxes.values())
        return is_pending_estimated or self.ledger.receipts >= COUNTED_RECEIPTS


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """What holds rows of an outbox, besides the outbox itself."""

    batches: BatchCounts
    oldest: Mapping[str, OldestBatch]
    dead_letters: Mapping[str, int]


def read_figures(parts: Parts) -> Figures:
    """Read everything that can be read in time, in one snapshot, so that the counts add up."""
    ledger = parts.read("the ledger", _read_ledger)
    under_way = parts.read("rows in flight", _read_under_way)
    return Figures(
        outboxes={} if under_way is None else _read_outboxes(parts, under_way),
        batches=BatchCounts() if under_way is None else under_way.batches,
        ledger=ledger or LedgerFigures(),
        is_ledger_read=ledger is not None and under_way is not None,
        holders=parts.read("what holds back vacuum", find_holders),
    )


def _read_ledger() -> LedgerFigures:
    return LedgerFigures(
        open_windows=read_open_windows(
            outboxes=list(all_outboxes()),
            slow_seconds=_WINDOW_LATE_SECONDS,
            unclaimed_seconds=_TAKEOVER_LATE_SECONDS,
        ),
        receipts=count_receipts(),
        unverified=read_unverified_receipts(limit=COUNTED_ROWS),
        vanished=count_vanished(limit=COUNTED_ROWS),
        contradicted_proofs=count_contradicted(limit=COUNTED_ROWS),
        unsealed_proofs=count_unsealed(limit=1),
        shifts=read_shifts(),
        last_dispatches=read_last_dispatches(),
        pauses=read_pauses(),
        last_seal=newest(),
        canary=read_canary(),
    )


def _read_under_way() -> _UnderWay:
    return _UnderWay(count_batches(), read_oldest_batches(), count_dead_letters())


def _read_outboxes(parts: Parts, under_way: _UnderWay) -> dict[str, OutboxFigures]:
    found: dict[str, OutboxFigures] = {}
    for name, model in all_outboxes().items():
        pending = parts.read(name, partial(read_pending, model, counted_rows=COUNTED_ROWS))
        if pending is None:
            continue
        in_flight = under_way.batches.rows.get(name, 0)
        dead_letters = under_way.dead_letters.get(name, 0)
        rows = pending.rows
        if rows >= COUNTED_ROWS:
            rows = max(rows, estimate(connection.ops.quote_name(name)) - in_flight - dead_letters)
        found[name] = OutboxFigures(rows, in_flight, dead_letters, dead_rows=count_dead_rows(name))
        # A separate part, because the time of a lean outbox's event is in another table.
        age = parts.read(
            f"the age of the oldest event of {name}",
            partial(_oldest_age_seconds, model, pending, under_way.oldest.get(name)),
        )
        found[name] = replace(found[name], oldest_age_seconds=age)
    return found


def _oldest_age_seconds(model: type[Outbox], pending: PendingRows, batch: OldestBatch | None) -> float | None:
    """By the event's own time: a row does not record when it was committed."""
    ids = [*pending.first_ids, *(batch.first_ids if batch else ())]
    # By ids alone: in a join with what a lean row points to, the planner may choose to sort all rows first.
    rows = model._base_manager.using(connection.alias).filter(id__in=ids)
    times = dict(rows.values_list("id", _readable(model.event_columns()["event_date_time"])))
    found = [times[row_id] for row_id in pending.first_ids if row_id in times]
    if batch is not None:
        # If its first rows were deleted, it is at least as old as the batch.
        found.append(next((times[row_id] for row_id in batch.first_ids if row_id in times), batch.dispatched_at))
    ages = [(timezone.now() - at).total_seconds() for at in found if at is not None]
    return round(max(0.0, *ages), 3) if ages else None


def _readable(time: Combinable) -> Case:
    """Return the time, or the nearest one that Python has and that is not to come: psycopg 3 cannot read infinity."""
    return Case(
        When(GreaterThan(time, Now()), then=Now()),
        When(LessThan(time, Value(_FIRST_TIME)), then=Value(_FIRST_TIME)),
        default=time,
    )
